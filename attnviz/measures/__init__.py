"""What can be counted or told of a head: statistics, the context, an explanation. Imports engine and sources."""
