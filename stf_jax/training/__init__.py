"""Features -> updates of the weights."""
