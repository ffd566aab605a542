"""From a request to a figure, for the library and the command line alike: how it looks, its kinds, one call each. Imports show and below."""
