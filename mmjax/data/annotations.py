"""COCO's file of captions."""

import logging
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mmjax.data.captions import Captions, utf8
from mmjax.data.json_items import NotJSON, items
from mmjax.types import UserError

PIECES = 1 << 16  # captions copied at a time
NOT_GIVEN = -1  # the id of a caption

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """What a file of captions says.

    Attributes:
        names: the file of each image, by the image's id.
        images, ids: of each caption, the id of its image, and its own.
        text_ends, text: of the captions, as in Captions.
    """

    names: dict[int, str]
    images: Int64[np.ndarray, " m"]
    ids: Int64[np.ndarray, " m"]
    text_ends: Int64[np.ndarray, " text_ends"]
    text: bytearray

    def captions(self, keys: Int64[np.ndarray, " n"]) -> tuple[Captions, Int64[np.ndarray, " k"]]:
        """The captions of some images, in the order of the captions' ids, and these ids.

        Args:
            keys: ids of images, ascending.
        """
        order = np.lexsort((self.ids, self.images))
        bounds = np.searchsorted(self.images[order], [keys, keys + 1])
        counts = bounds[1] - bounds[0]
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        chosen = order[np.repeat(bounds[0] - ends[:-1], counts) + np.arange(ends[-1])]
        begins, stops = self.text_ends[chosen], self.text_ends[chosen + 1]
        text = _gathered(self.text, begins, stops)
        text_ends = np.concatenate([[0], np.cumsum(stops - begins)]).astype(np.int64)
        return Captions(keys, ends, text_ends, np.frombuffer(text, np.uint8)), self.ids[chosen]


def read_annotations(path: Path) -> Annotations:
    """Reads annotations/captions_SPLIT.json.

    An image or a caption that is there twice is taken once; captions that share an id are all kept; those that are no
    text are left out; each of it with one warning.

    Raises:
        UserError: for a file that is missing, no UTF-8, no JSON, cut off or of another kind, or that names two files
            for one image.
    """
    names: dict[int, str] = {}
    images, ids, ends, text = array("q"), array("q"), array("q", [0]), bytearray()
    listed, without = array("q"), 0
    missing = {"images", "annotations"}
    try:
        for section, item in items(path, ("images", "annotations")):
            if section is None:
                raise TypeError("list in place of an object")
            missing.discard(section)
            if section == "images" and item is not None:
                key, name = int(item["id"]), str(item["file_name"])
                if names.setdefault(key, name) != name:
                    raise UserError(f"{path}: two images have the id {key}, {names[key]} and {name}; give one another")
                listed.append(key)
            elif section == "annotations" and item is not None:
                key, caption = int(item["image_id"]), item["caption"]
                if not isinstance(caption, str):
                    without += 1
                    continue
                images.append(key)
                ids.append(int(item.get("id", NOT_GIVEN)))
                text += utf8(caption)
                ends.append(len(text))
        if missing:
            raise KeyError(min(missing, key=["images", "annotations"].index))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; COCO's captions are expected there") from error
    except NotJSON as error:
        raise UserError(f"{path}: not complete JSON ({error}); download COCO's captions again") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: not COCO's captions ({type(error).__name__}: {error}); expected are 'images' with id and "
            "file_name, and 'annotations' with image_id and caption"
        ) from error
    lists = [np.frombuffer(values, np.int64) for values in (images, ids, ends)]  # not copied
    found = Annotations(names, lists[0], lists[1], lists[2], text)
    twice = _twice(found)
    told = (
        (len(listed) - len(names), "images are named more than once and taken once"),
        (int(twice.sum()), "captions are there more than once and taken once"),
        (_sharing(found.ids[~twice]), "captions share their id with another one; all are kept"),
        (without, "captions are no text and left out"),
    )
    for count, what in told:
        if count:
            logger.warning("%s: %s %s", path, f"{count:,}", what)
    return _without(found, twice) if twice.any() else found


def _twice(found: Annotations) -> np.ndarray:
    """Which captions have the image, the id and the text of an earlier one."""
    order = np.lexsort((found.ids, found.images))
    same = (np.diff(found.images[order]) == 0) & (np.diff(found.ids[order]) == 0) & (found.ids[order][1:] != NOT_GIVEN)
    twice = np.zeros(len(order), np.bool_)
    seen: set[tuple[int, int, bytes]] = set()
    for at in np.flatnonzero(np.append(same, False) | np.insert(same, 0, False)):
        one = int(order[at])
        text = bytes(found.text[found.text_ends[one] : found.text_ends[one + 1]])
        entry = int(found.images[one]), int(found.ids[one]), text
        twice[one] = entry in seen
        seen.add(entry)
    return twice


def _sharing(ids: np.ndarray) -> int:
    counts = np.unique(ids[ids != NOT_GIVEN], return_counts=True)[1]
    return int(counts[counts > 1].sum())


def _without(found: Annotations, gone: np.ndarray) -> Annotations:
    kept = np.flatnonzero(~gone)
    begins, stops = found.text_ends[kept], found.text_ends[kept + 1]
    ends = np.concatenate([[0], np.cumsum(stops - begins)]).astype(np.int64)
    return Annotations(found.names, found.images[kept], found.ids[kept], ends, _gathered(found.text, begins, stops))


def _gathered(text: bytearray, begins: np.ndarray, stops: np.ndarray) -> bytearray:
    gathered, end = bytearray(int((stops - begins).sum())), 0
    for at in range(0, len(begins), PIECES):  # every piece is an object for a while
        bounds = zip(begins[at : at + PIECES].tolist(), stops[at : at + PIECES].tolist(), strict=True)
        piece = b"".join(text[begin:stop] for begin, stop in bounds)
        gathered[end : end + len(piece)] = piece
        end += len(piece)
    return gathered
