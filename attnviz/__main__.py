"""``python -m attnviz``."""

from attnviz.cli.main import main

main()
