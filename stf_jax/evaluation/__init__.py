"""Features -> scores and pages."""
