"""Videos and track files -> crops."""
