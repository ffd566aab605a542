"""What one attention call is: its inputs, checked once; a batch item of them; which query sees which key. Imports base."""
