"""The plain way of doing what attnviz does: scripts that import nothing of attnviz, as a user would write them."""
