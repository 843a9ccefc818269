"""Texts that were tokenized are remembered, in bounded memory: captions come again every epoch."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Int32

from mmjax.data.text import Tokenizer

MAX_BYTES = 1 << 27  # taken as they are filled: 1.9 million captions of 32 tokens
PROBES = 8  # places a text may have


class CaptionCache:
    """Encodes as the tokenizer does; a text that it met before is looked up.

    A hash table of fixed size. What finds all of its places taken displaces another text. Texts are told apart by 64
    bits of a hash beside their place: among a million there are two alike once in 10**12 runs or so.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, most_bytes: int = MAX_BYTES) -> None:
        self.tokenizer, self.length = tokenizer, length
        kind = np.uint16 if tokenizer.size <= 1 << 16 else np.int32
        row = 8 + length * np.dtype(kind).itemsize
        self.places = 1 << max((most_bytes // row).bit_length() - 1, 4)
        # Zeros take memory only where something is written.
        self.names, self.ids = np.zeros(self.places, np.uint64), np.zeros((self.places, length), kind)

    def encode(self, texts: Sequence[str]) -> Int32[np.ndarray, "b t"]:
        """Token ids, int32 [b, length]; see Tokenizer.encode."""
        found = [self._find(text) for text in texts]
        new = [i for i, (_, _, known) in enumerate(found) if not known]
        ids = self.ids[[place for place, _, _ in found]].astype(np.int32)
        if new:
            ids[new] = self.tokenizer.encode([texts[i] for i in new], self.length)
            for i in new:
                place, name, _ = found[i]
                self.names[place], self.ids[place] = name, ids[i]
        return ids

    def _find(self, text: str) -> tuple[int, int, bool]:
        """The place of a text, its name, and whether it is there; else a place that it may take."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        name, first = int.from_bytes(digest[:8], "little") | 1, int.from_bytes(digest[8:], "little")
        for probe in range(PROBES):
            place = (first + probe) % self.places
            there = int(self.names[place])
            if there in (name, 0):
                return place, name, there == name
        return first % self.places, name, False
