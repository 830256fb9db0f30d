"""Work that threads share, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], *, num_workers: int, num_ahead: int, name: str) -> Iterator[R]:
    """``map``, with ``num_ahead`` items in the hands of threads of this name, or waiting; without threads for 0."""
    if num_workers == 0:
        yield from map(work, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(num_workers, thread_name_prefix=name) as pool:
        waiting = deque(pool.submit(work, item) for item in islice(rest, num_ahead))
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
                yield done
        finally:
            pool.shutdown(cancel_futures=True)
