"""Maps and statistics kept in a small file, and a later run held against them."""
