"""Stands in for a program: hands what it was started with to the server, and ends as the program does."""

import json
import os
import resource
import signal
import socket
import sys

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LIMITS = (getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def closed_streams() -> list[int]:
    """The standard streams that this was started without. What is opened next would take their numbers: this does."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))  # the lowest number that is free
    return closed


def main(address: str, executable: str, *arguments: str) -> None:
    closed = closed_streams()
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "arguments": arguments,
        "folder": os.getcwd(),  # noqa: PTH109 (pathlib takes longer to import than all of this)
        "environment": dict(os.environ),
        "umask": umask,
        "ignored": [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN],
        "limits": [(limit, resource.getrlimit(limit)) for limit in LIMITS],
        "closed": closed,
    }
    message = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        for number in set(SIGNALS) - set(request["ignored"]):
            signal.signal(number, lambda number, _: server.send(bytes([number])))
        socket.send_fds(server, [len(message).to_bytes(8, "big") + message], [0, 1, 2])
        answer = server.recv(64).decode()
    if answer == "real":
        os.execv(executable, [executable, *arguments])
    if not answer:
        sys.exit("the warm server has ended")
    code = int(answer)
    if code < 0:  # so that whoever waits sees the signal
        if -code in SIGNALS:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
