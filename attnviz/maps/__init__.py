"""What can be drawn: a head in cells, several heads as one, the reasons of a pattern, sides, layers, every zoom. Imports engine and sources."""
