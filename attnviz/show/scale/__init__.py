"""From values to shares of a scale, and from shares to colors."""
