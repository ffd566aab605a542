"""Where inputs come from: files, a generator, models."""
