"""The formula, streamed: what is asked, rows of logits and weights, and maps reduced while they stream. Imports attention."""
