"""A model and tracklets -> a feature a tracklet."""
