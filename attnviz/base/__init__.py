"""What everything stands on: errors, devices, selections, writing, words, labels, bins. Imports nothing of attnviz."""
