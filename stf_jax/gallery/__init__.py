"""Features of many recordings in one LanceDB table: added to, searched, removed from."""
