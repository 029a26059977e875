"""What is wrong with a layout: entries and images."""
