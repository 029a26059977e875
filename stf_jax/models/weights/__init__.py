"""Weights in and out: files, names, where they lie."""
