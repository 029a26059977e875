"""The public data sets' own tables, lists and counts."""
