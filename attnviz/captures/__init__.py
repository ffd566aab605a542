"""A running model to inputs: listens to its attention and writes what it heard. Imports engine and sources."""
