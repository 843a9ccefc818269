"""Prefetches batches in a thread."""

import atexit
import functools
import queue
import threading
from collections.abc import Callable, Iterator

from mmjax.types import Batch, InputStats

AHEAD = 2  # batches


def prefetch(batches: Callable[[], Iterator[Batch]], stats: InputStats | None = None) -> Iterator[Batch]:
    """Runs an iterator in a thread, which starts with the first batch.

    The thread ends when the generator is closed or collected, and before the interpreter shuts down.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(batches, ready, stop), name="mmjax-data", daemon=True)
    finish = functools.partial(_finish, thread, stop)
    thread.start()
    atexit.register(finish)
    try:
        while True:
            if stats:
                stats.ready = ready.qsize()
            item = ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        finish()
        atexit.unregister(finish)


def _work(batches: Callable[[], Iterator[Batch]], ready: queue.Queue, stop: threading.Event) -> None:
    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    try:
        for batch in batches():
            put(batch)
            if stop.is_set():
                return
        put(None)
    except BaseException as error:  # raised in the consumer
        put(error)


def _finish(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():  # where the garbage collector may run
        thread.join()
