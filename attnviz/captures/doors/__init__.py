"""Where attention is heard, one file a door: what a kernel was called with, as a :class:`~attnviz.captures.calls.Call`."""
