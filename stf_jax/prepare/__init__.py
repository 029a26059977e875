"""Any source of tracklets -> the layout on disk."""
