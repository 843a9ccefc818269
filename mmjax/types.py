"""Common types: batches, model outputs and evaluators.

Axis letters of annotations, einsum and comments:

    b batch, t text tokens, n visual tokens, s keys, h heads, k head width, d model width,
    f frames, y x rows and columns, c channels
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import UInt8

# A batch is a plain dict. Fields that go to the devices:
#   image  float32 [b, y, x, c]  the target image, -1 (black) to 1 (white); clips are [b, f, y, x, c]
#   text   int32   [b, t]        token ids, 0 is padding
#          (all padding without a caption, in sources of questions or labels)
#   text_features  float16 [b, t, d]  output of a frozen text encoder for `text`
#   question int32 [b, t]        token ids; all padding without one
#   answer   int32 [b, t]        token ids of an answer: in training a random one, else the most frequent
#   label  int32   [b]           class, -1 without one
#   mask   bool    [b]           False: padding of the last evaluation batch, or an unreadable image
#   key    uint32  [b]           of each example, in evaluation: what is random there follows from it
#   seed   int32   [b]           random seed of each sample, for evaluators that set it
# Further features of the source under their names (see Feature):
#   images       float32 [b, y, x, c]  as `image`, each of its own size
#   masks        uint8 [b, y, x]       of an image, transformed with it
#   boxes        float32 [b, n, 4]     of an image: y_min, x_min, y_max, x_max, fractions of the crop
#   NAME_valid   bool [b, n]           of the boxes NAME: False for padding and boxes outside of the crop
#   arrays       any type [b, ...]     unchanged
# Fields that stay on the host:
#   id       list of b strings            ids of the examples in the source
#   captions list of b lists of strings   all captions; `text` is one of them
#   questions  list of b strings          "" without one
#   answers  list of b lists of strings   all answers to the question
# Fields that the source does not provide are absent.
Batch = dict[str, Any]
Outputs = dict[str, jax.Array]
Params = Mapping[str, Any]
FLOAT32 = np.dtype(np.float32)
HOST_FIELDS = ("id", "captions", "questions", "answers")
PADDING, UNKNOWN, BEGIN, END, MASK = range(5)  # special token ids of every text tokenizer


@dataclass(frozen=True)
class Feature:
    """A named field of a source's examples.

    Attributes:
        kind: "image", "mask" (of an image), "boxes" (in an image), "array" (anything else of a fixed shape), "codes",
            "text" or "label".
        shape: of one example: image [*f, y, x, c], mask [y, x], boxes [n, 4] for at most n boxes.
        of: image whose crop a mask, boxes or another image share; images without one are cropped independently.
        dtype: of an array.
    """

    kind: Literal["image", "mask", "boxes", "array", "codes", "text", "label"]
    shape: tuple[int, ...] = ()
    of: str = ""
    dtype: str = "float32"


class UserError(Exception):
    """A user-facing error. The message is one line: what is wrong, where, and how to fix it.

    Attributes:
        status: exit status of the command; launchers do not retry after 2.
    """

    status = 2


class TransientError(UserError):
    """An error of another process, the network or a bucket that a retry may resolve."""

    status = 1


@dataclass
class InputStats:
    """Statistics of the input pipeline.

    Attributes:
        seconds: total time of each operation.
        ready: prefetched batches when the last one was taken.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    ready: int = 0

    def spend(self, operation: str, seconds: float) -> None:
        self.seconds[operation] = self.seconds.get(operation, 0.0) + seconds


@dataclass(frozen=True)
class Samples:
    """Samples for reports: rows of images or clips, with a prompt for each column.

    Attributes:
        prompts: n texts.
        rows: names ("generated", "original") to images, uint8 [n, y, x, 3], or clips [n, f, y, x, 3].
        frame_rate: of clips, in frames per second.
    """

    prompts: list[str]
    rows: dict[str, UInt8[np.ndarray, "n *f y x 3"]]
    frame_rate: float = 8.0


# An evaluator gets `predict`, which maps a host batch to outputs as NumPy arrays or lists of texts, and `batches`,
# which starts a pass over the evaluation set; it yields (name, value) with value a metric or Samples.
Predict = Callable[[Batch], dict[str, Any]]
Results = Iterator[tuple[str, float | Samples]]
Evaluator = Callable[[Predict, Callable[[], Iterable[Batch]]], Results]


def stream(key: jax.Array, name: str) -> jax.Array:
    """The random key of a named stream, independent of other names."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def leaf_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf of a pytree: `text/stack/block/mlp_in/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
