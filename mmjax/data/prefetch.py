"""Prefetches batches in a thread."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from mmjax.types import Batch, InputStats

AHEAD = 3  # batches


def prefetch(batches: Callable[[], Iterator[Batch]], stats: InputStats | None = None) -> Iterator[Batch]:
    """Runs an iterator in a thread, which starts with the first batch.

    The thread ends when the generator is closed or collected, and before the interpreter shuts down.
    """
    stream, pool = batches(), ThreadPoolExecutor(1, "mmjax-data")
    ahead = deque(pool.submit(next, stream, None) for _ in range(AHEAD))
    try:
        while True:
            if stats:
                stats.ready = sum(future.done() for future in ahead)
            batch = ahead.popleft().result()
            if batch is None:
                return
            ahead.append(pool.submit(next, stream, None))
            yield batch
    finally:
        with contextlib.suppress(RuntimeError):  # the garbage collector may run in the thread, which cannot join itself
            pool.shutdown(cancel_futures=True)
