"""Ranks as threads of one process, for tests: what they tell each other goes through queues."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Lock
from typing import Any

import torch

from attnviz.engine.ranks import Ranks

PATIENCE = 240  # seconds; a rank that hangs is a failure, not a stuck build


class Threads:
    """What a rank that is a thread tells the others."""

    def __init__(self, rank: int, tickets: dict[str, int], queues: dict[tuple[int, int], Queue]) -> None:
        self.rank, self.tickets, self.queues = rank, tickets, queues

    def ticket(self, name: str) -> int:
        with LOCK:
            self.tickets[name] = self.tickets.get(name, -1) + 1
            return self.tickets[name]

    def send(self, tensor: torch.Tensor, to: int) -> None:
        self.queues[self.rank, to].put(tensor.clone())

    def receive(self, tensor: torch.Tensor, source: int) -> None:
        tensor.copy_(self.queues[source, self.rank].get(timeout=PATIENCE))

    def arrived(self) -> None:
        pass

    def wait(self) -> None:
        pass


LOCK = Lock()


def together(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Has ranks, threads of this process, do the same; gives what each of them has."""
    queues: dict[tuple[int, int], Queue] = {pair: Queue() for pair in itertools.product(range(size), repeat=2)}
    tickets: dict[str, int] = {}
    ranks = [Ranks(rank, size, Threads(rank, tickets, queues)) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        made = [one.result(PATIENCE) for one in [pool.submit(work, rank) for rank in ranks]]
    assert all(queue.empty() for queue in queues.values())
    return made
