"""Common types: the axis alphabet, batches, model outputs and evaluators.

One alphabet of axis letters serves annotations, einsum and comments everywhere:

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
#          (of a source of questions or labels, an example without a caption is all padding)
#   text_features  float16 [b, t, d]  where the text encoder is frozen: its output for `text`
#   question int32 [b, t]        token ids, as `text`; all padding where there is none
#   answer   int32 [b, t]        token ids of one answer: in training drawn among all, else the most frequent one
#   label  int32   [b]           class, -1 where there is none
#   mask   bool    [b]           False: padding at the end of an evaluation, or an image that could not be read
#   seed   int32   [b]           where an evaluator asks for it: the random seed of each sample
# Further fields that the source gives, under names of its own (see Feature):
#   images       float32 [b, y, x, c]  as `image`, each of its own size
#   masks        uint8 [b, y, x]       of an image: cropped and mirrored with it
#   boxes        float32 [b, n, 4]     of an image: y_min, x_min, y_max, x_max from 0 to 1 within the crop
#   NAME_valid   bool [b, n]           of the boxes NAME: False where there is no box, or none of it is in the crop
#   arrays       any type [b, ...]     as the source gives them
# Fields that stay on the host:
#   id       list of b strings            names the example in its source
#   captions list of b lists of strings   every caption of the example; `text` holds one of them
#   questions  list of b strings          "" where there is none
#   answers  list of b lists of strings   every answer to the question
# What no example of the source can have is absent.
Batch = dict[str, Any]
Outputs = dict[str, jax.Array]
Params = Mapping[str, Any]
FLOAT32 = np.dtype(np.float32)
HOST_FIELDS = ("id", "captions", "questions", "answers")
PADDING, UNKNOWN, BEGIN, END, MASK = range(5)  # token ids of every text tokenizer; words have larger ones


@dataclass(frozen=True)
class Feature:
    """A named field of a source's examples.

    Attributes:
        kind: "image", "mask" (of an image), "boxes" (in an image), "array" (anything else of one shape), "codes",
            "text" or "label".
        shape: of one example: image [*f, y, x, c], mask [y, x], boxes [n, 4] for at most n boxes.
        of: the image whose crop a mask, boxes or another image share; an image without one has a crop of its own.
        dtype: of an array.
    """

    kind: Literal["image", "mask", "boxes", "array", "codes", "text", "label"]
    shape: tuple[int, ...] = ()
    of: str = ""
    dtype: str = "float32"


class UserError(Exception):
    """A user-facing error. The message is one line: what is wrong, where, and what would be right.

    Attributes:
        status: exit status of the command; launchers do not retry after 2.
    """

    status = 2


class TransientError(UserError):
    """An error of another process, a network or a bucket that may be gone on a retry."""

    status = 1


@dataclass
class InputStats:
    """Statistics of the input pipeline.

    Attributes:
        seconds: time spent so far in each operation.
        ready: batches ready when the last one was taken.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    ready: int = 0

    def spend(self, operation: str, seconds: float) -> None:
        self.seconds[operation] = self.seconds.get(operation, 0.0) + seconds


@dataclass(frozen=True)
class Samples:
    """Images or clips to look at, as rows of equally many; a prompt for each column.

    Attributes:
        prompts: n texts.
        rows: what each row shows ("generated", "original"), and its images, uint8 [n, y, x, 3], or clips [n, f, y, x,
            3].
        frame_rate: of clips, in frames a second.
    """

    prompts: list[str]
    rows: dict[str, UInt8[np.ndarray, "n *f y x 3"]]
    frame_rate: float = 8.0


# An evaluator turns a model and an evaluation set into metrics: it is handed `predict`, which maps a host batch to
# outputs as NumPy arrays, and `batches`, which starts a pass over the evaluation set, and yields (name, value) with
# value a number, or Samples to look at.
Predict = Callable[[Batch], dict[str, np.ndarray]]
Results = Iterator[tuple[str, float | Samples]]
Evaluator = Callable[[Predict, Callable[[], Iterable[Batch]]], Results]


def stream(key: jax.Array, name: str) -> jax.Array:
    """The random key of a name, independent of those of other names."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def leaf_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, with its keys joined by slashes: `text/stack/block/mlp_in/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
