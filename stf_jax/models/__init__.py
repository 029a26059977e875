"""Batches of frames -> tracklet features."""
