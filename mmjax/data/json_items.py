"""Large JSON files read an item at a time: 150 MB of JSON would take a gigabyte as one tree."""

import codecs
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes
LONGEST = 1 << 26  # characters of an item; what is no JSON is not read to its end
NUMBER = "0123456789.eE+-"  # what a number goes on with


class NotJSON(ValueError):
    """The file is no UTF-8, no JSON, or cut off; the message is one line that says where."""


def items(path: Path, lists: Collection[str] = ()) -> Iterator[tuple[str | None, Any]]:
    """The items of each list in a file that is one JSON object, with the list's name; first of each list comes None.

    The items of a file that is one list have the name None.

    Args:
        lists: names of what must be lists where it is there.

    Raises:
        NotJSON: where it is none; TypeError: where it is something else than an object or a list, or where what should
            be lists are none.
    """
    try:
        yield from _items(path, lists)
    except (json.JSONDecodeError, _NotText, RecursionError) as error:
        raise NotJSON(" ".join(str(error).split())) from error


def _items(path: Path, lists: Collection[str]) -> Iterator[tuple[str | None, Any]]:
    with path.open("rb") as file:
        text = _Text(file)
        if text.next() == "[":
            yield from _list(text, None)
        else:
            yield from _object(text, lists)
        if text.next():
            text.take("the end")


def _object(text: "_Text", lists: Collection[str]) -> Iterator[tuple[str | None, Any]]:
    if text.next() != "{":
        value = text.value()
        raise TypeError(f"{type(value).__name__} in place of an object")
    text.take("{")
    while text.next() != "}":
        name = text.value()
        text.take(":")
        if text.next() == "[":
            yield from _list(text, name)
        elif name in lists:
            raise TypeError(f"{name} is no list")
        else:
            text.value()
        if text.next() != "}":
            text.take(",", before="}")
    text.take("}")


def _list(text: "_Text", name: str | None) -> Iterator[tuple[str | None, Any]]:
    yield name, None
    text.take("[")
    while text.next() != "]":
        yield name, text.value()
        if text.next() != "]":
            text.take(",", before="]")
    text.take("]")


class _NotText(ValueError):
    pass


class _Text:
    """JSON of which only a window is held."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decoder, self._read = file, codecs.getincrementaldecoder("utf-8-sig")(), 0
        self._window, self._at, self._ended = "", 0, False
        self._json = json.JSONDecoder()

    def _more(self) -> None:
        content = self._file.read(CHUNK)
        self._ended = not content
        try:
            text = self._decoder.decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            at = self._read - (len(error.object) - len(content)) + error.start
            raise _NotText(f"byte {at:,} is no UTF-8") from error
        self._read += len(content)
        self._window, self._at = self._window[self._at :] + text, 0

    def next(self) -> str:
        """The next character that is no space, which stays; none at the end."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._window) or self._ended:
                return self._window[self._at : self._at + 1]
            self._more()

    def take(self, character: str, before: str = "") -> None:
        """Goes past a character, which must be there, and which `before` must not follow."""
        if self.next() != character:
            raise json.JSONDecodeError(f"expecting {character}", self._window, self._at)
        self._at += 1
        if before and self.next() == before:
            raise json.JSONDecodeError(f"not expecting {before}", self._window, self._at)

    def value(self) -> Any:
        self.next()
        while True:
            try:
                value, end = self._json.raw_decode(self._window, self._at)
            except json.JSONDecodeError:
                if self._ended or len(self._window) - self._at > LONGEST:
                    raise
            else:
                goes_on = self._window[end : end + 1] in NUMBER  # so does a number where the window ends
                if not goes_on or self._ended or len(self._window) - self._at > LONGEST:
                    self._at = end
                    return value
            self._more()
