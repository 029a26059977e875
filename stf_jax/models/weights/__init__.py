"""Weights in and out: files, names, locations."""
