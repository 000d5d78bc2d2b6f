"""An event loop in a thread of its own, for callers that are not asynchronous."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class LoopThread:
    """Runs coroutines; `close` ends its thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, once it is there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def each(
        self, work: Callable[[S], Awaitable[T]], items: Iterable[S], *, at_once: int
    ) -> Iterator[T]:
        """The results of work on each item, as they come, with so many under way at once.

        What work raises is raised here, and the rest is cancelled, as it is where the iterator is
        closed.
        """
        done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        waiting = iter(items)
        left = 0

        async def one(item: S) -> None:
            try:
                done.put((await work(item), None))
            except BaseException as error:  # handed over to whoever iterates
                done.put((None, error))

        futures = set()
        try:
            while True:
                while left < at_once and (item := next(waiting, None)) is not None:
                    future = asyncio.run_coroutine_threadsafe(one(item), self._loop)
                    futures.add(future)
                    future.add_done_callback(futures.discard)
                    left += 1
                if not left:
                    return
                result, error = done.get()
                left -= 1
                if error is not None:
                    raise error
                yield result  # type: ignore[misc]
        finally:
            for future in list(futures):
                future.cancel()

    def close(self) -> None:
        """Cancel what is under way and end the thread; closing twice is harmless."""
        if self._thread.is_alive():
            self.run(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)
            self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
