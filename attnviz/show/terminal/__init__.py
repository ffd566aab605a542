"""Tables and heatmaps of characters."""
