"""Captions of a dataset as flat arrays, in memory or memory-mapped: 60 instead of 200 bytes per caption."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8


@dataclass(frozen=True)
class Captions:
    """All captions of a dataset.

    Attributes:
        keys: of each example, in order.
        ends: the captions of example i are those from ends[i] to ends[i + 1].
        text_ends: caption j is the bytes from text_ends[j] to text_ends[j + 1].
        text: UTF-8.
    """

    keys: Int64[np.ndarray, " n"]
    ends: Int64[np.ndarray, " ends"]
    text_ends: Int64[np.ndarray, " text_ends"]
    text: UInt8[np.ndarray, " bytes"]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> list[str]:
        """The captions of an example."""
        bounds = self.text_ends[self.ends[index] : self.ends[index + 1] + 1].tolist()
        return [self.text[begin:end].tobytes().decode("utf-8", "replace") for begin, end in itertools.pairwise(bounds)]

    def __iter__(self) -> Iterator[str]:
        """Every caption, example by example."""
        return itertools.chain.from_iterable(map(self.__getitem__, range(len(self))))


def pack(examples: Iterable[tuple[int, Sequence[str]]]) -> Captions:
    """Packs pairs of a key and the captions of an example."""
    keys, counts, lengths, text = [], [0], [0], bytearray()
    for key, captions in examples:
        keys.append(key)
        counts.append(len(captions))
        for caption in captions:
            content = utf8(caption)
            lengths.append(len(content))
            text += content
    ends, text_ends = (np.cumsum(np.array(values, np.int64)) for values in (counts, lengths))
    return Captions(np.array(keys, np.int64), ends, text_ends, np.frombuffer(text, np.uint8))


def utf8(text: str) -> bytes:
    """Encodes as UTF-8; lone surrogates, which JSON allows, become question marks."""
    return text.encode("utf-8", "replace")


def map_captions(path: Path) -> Captions:
    """Memory-maps captions in a safetensors file."""
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())

    def array(name: str, dtype: type = np.int64) -> np.ndarray:
        begin, end = header[name]["data_offsets"]
        return np.asarray(content[start + begin : start + end]).view(dtype)

    return Captions(array("keys"), array("ends"), array("text_ends"), array("text", np.uint8))
