"""What a command writes to its terminal or log, and Ctrl-C while it loads; imports only what is quick to import."""

import codecs
import io
import json
import os
import signal
import sys
from typing import Any

ESCAPE = "mmjax-escape"  # name of the codec error handler, as in text.encode("ascii", ESCAPE)


class _Optional(io.FileIO):
    """A file whose writes never fail: what cannot be written (a full disk, a closed terminal) is dropped."""

    def write(self, content: Any) -> int:
        try:
            written = super().write(content)
        except OSError:
            written = None
        return memoryview(content).nbytes if written is None else written  # None: would block


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters without a code by JSON's escapes, so that JSON stays valid in every encoding."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def prepare() -> None:
    """Prepares this process for any terminal: call it first, before anything slow is imported; twice does no harm.

    Closed descriptors become the null device, since the next file that is opened would take their number. Errors of
    stderr are ignored. Characters outside the encoding are escaped. Until `loaded`, Ctrl-C exits immediately, with
    status 130.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    codecs.register_error(ESCAPE, _escape)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPE)
    sys.stderr = _optional(sys.stderr, 2)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _stop)


def ignore_stdout_errors() -> None:
    """For commands whose results are files."""
    sys.stdout = _optional(sys.stdout, 1)


def _optional(stream: Any, number: int) -> Any:
    if not (stream is None or (isinstance(stream, io.TextIOWrapper) and stream in (sys.__stdout__, sys.__stderr__))):
        return stream  # done already, or somebody captures it
    if stream is not None:
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Optional(number, "w", closefd=False)),
        encoding=stream.encoding if stream else "utf-8",
        errors=ESCAPE,
        line_buffering=stream is None or stream.line_buffering,
        write_through=stream is not None and stream.write_through,
    )


def loaded() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(number: int, frame: Any) -> None:
    # An exception would be lost in modules that ignore those of their imports. Nothing is to be cleaned up yet.
    print("mmjax: stopped", file=sys.stderr, flush=True)
    os._exit(128 + number)


def printable(text: str) -> str:
    """The text as one line, with control characters escaped: names may come from strangers."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def json_line(value: Any) -> str:
    """The value as a line of JSON, readable in every alphabet, with control characters escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in text)
