"""To eyes: color scales, figures, the terminal, lessons, exports, notebooks. Computes no attention."""
