"""Work on many items in several processes, or behind one's back, with the results in order."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from bricscli.errors import BricsError

A = TypeVar("A")
B = TypeVar("B")

#: Unless told otherwise, fewer items than this are done here: they are finished before a worker has started.
WORTH_WORKERS = 256
#: Items that a process is given at once, and portions that wait for each process or for whoever takes the results.
PORTION, AHEAD = 16, 3


def map_in_order(
    function: Callable[[A], B], items: Sequence[A], workers: int | None = None
) -> Generator[B, None, None]:
    """function(item) for each item, in order, by so many processes; None: one per CPU core if that is worth it.

    `function` is a module's own, or a `partial` of one; the processes are spawned. They work at most `AHEAD` portions
    each ahead of whoever takes the results, so that no more than that is in memory. Leaving the iterator early ends
    them.

    Raises:
        BricsError: a process was killed.
    """
    if workers is None:
        workers = _cores() if len(items) >= WORTH_WORKERS else 1
    if workers == 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
    try:
        waiting: deque[Future[list[B]]] = deque()
        rest = iter(items)
        while portion := list(itertools.islice(rest, PORTION)):
            waiting.append(pool.submit(_each, function, portion))
            if len(waiting) > AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise BricsError("workers: one was killed, perhaps for lack of memory. Try again with --workers 1.") from None
    finally:
        pool.shutdown(cancel_futures=True)


def map_behind(function: Callable[[A], B], items: Iterable[A]) -> Generator[B, None, None]:
    """function(item) for each item, in order, by a thread that is at work while the next item is being made.

    At most two items are with the thread: whoever makes them faster waits. What `function` raises comes up with the
    next item; however the iteration ends, the thread finishes the items that it has.
    """
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(1, "brics-behind") as thread:
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _each(function: Callable[[A], B], items: list[A]) -> list[B]:
    return [function(item) for item in items]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start() -> None:
    """In a new worker: Ctrl-C is the parent's business, and a worker whose parent is gone ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
