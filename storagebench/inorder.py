"""Work on many small tasks in threads, with results in order and a bounded number in flight: what building and verifying share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
# Enough waiting tasks that one long one does not leave the other threads idle; a million futures at once would take gigabytes.
_WAITING_PER_THREAD = 4


def in_order(
    tasks: Iterable[int], work: Callable[[int], Result], num_threads: int, on_end: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, Result]]:
    """Yield (task, work(task)) in the order of the tasks, which are taken as threads become free.

    The first error in that order is raised and ends all: `on_end` is called (so that running work can be told to stop), tasks that wait are dropped,
    and those that run are waited for. `on_end` is also called at a normal end and when the iterator is closed.
    """
    waiting: deque[tuple[int, Future[Result]]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="storagebench") as pool:
        try:
            for task in tasks:
                waiting.append((task, pool.submit(work, task)))
                if len(waiting) >= _WAITING_PER_THREAD * num_threads:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            on_end()
            for _, future in waiting:
                future.cancel()


def _first(waiting: deque[tuple[int, Future[Result]]]) -> tuple[int, Result]:
    task, future = waiting[0]
    result = future.result()
    waiting.popleft()
    return task, result
