"""matplotlib figures: a file a kind of figure. Each function takes Axes, or makes a figure, and returns it."""
