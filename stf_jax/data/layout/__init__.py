"""The layout on disk: read safely, checked, as tables of tracklets."""
