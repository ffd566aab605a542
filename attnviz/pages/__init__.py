"""The interactive page: in one HTML file, from a local server, and in a notebook. ``web/FORMAT.md`` is its format."""
