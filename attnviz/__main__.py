"""``attnviz`` and ``python -m attnviz``: until the program is there to hear an interrupt, it ends at once."""

import os
import signal


def _stop(*_: object) -> None:
    os.write(2, b"attnviz: stopped; no file is half-written\n")
    os._exit(128 + signal.SIGINT)


def run() -> None:
    """Runs the program."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
    from attnviz.cli.main import main

    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said; what is left is Python's own end


if __name__ == "__main__":
    run()
