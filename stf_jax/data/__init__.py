"""The layout on disk -> packed batches of frames."""
