"""What scripts/benchmark.py measures: one part a file, each run in a process of its own."""
