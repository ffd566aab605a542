"""From a request to a figure, for the library and the command line alike."""
