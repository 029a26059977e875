"""Scores and ranked lists -> pages and pictures."""
