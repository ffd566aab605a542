"""What is held against what: two maps, a kernel and the formula, a run and its snapshot. Imports maps and measures."""
