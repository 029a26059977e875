"""Drawn people, cameras and streets."""
