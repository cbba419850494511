"""An asyncio event loop in a thread of its own, for client libraries that are asynchronous. It knows nothing of storage."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")


class LoopThread:
    """Started when made. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run on the loop and wait; an interrupt here cancels it there. Not for the loop's own thread."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def post(self, call: Callable[[], object]) -> None:
        """Have the loop do this soon, without waiting: safe also where the garbage collector runs. Nothing happens after `close`."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Run `last`, cancel what is left, end the loop and join the thread. Once only."""
        try:
            self.run(last)
        finally:
            self.run(_cancel_the_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_the_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # the transports' own callbacks
