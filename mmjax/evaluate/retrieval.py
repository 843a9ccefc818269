"""Image-text retrieval."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.scenes.grammar import canonical
from mmjax.types import Batch, Predict, Results

CAPTIONS = 5
AMONG = (1, 5, 10)
NAMES = tuple(f"retrieval/{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in AMONG)
ROWS = 256  # queries compared at a time
TIE = 1e-6  # cosines closer than this are ties


def retrieval(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields retrieval/image_to_text_r1, r5 and r10 (recall at k), and text_to_image_r1, r5 and r10.

    Image to text: the fraction of images with one of their own captions among the k captions of highest cosine
        similarity;
    text to image: the fraction of captions with their image among the first k.

    As for COCO, with the first five captions of each image. Equal captions belong to all of their images, and so do the
    two that a scene has from either side. Ties count as wrong. Examples without captions are ignored.
    """
    images, texts, owners, captions = _embed(predict, batches)
    if not len(images):
        return
    images_say, captions_say = _words(owners, captions)
    both = ranks(images, texts, images_say, captions_say), ranks(texts, images, captions_say, images_say)
    yield from zip(NAMES, (float(np.mean(rank < k)) for rank in both for k in AMONG), strict=True)


def ranks(
    queries: Float32[np.ndarray, "q e"], gallery: Float32[np.ndarray, "g e"], asked: Any, held: Any
) -> Int64[np.ndarray, "q"]:
    """The number of wrong gallery items before the first correct one, for each query.

    Args:
        queries, gallery: embeddings of unit length.
        asked, held: sparse matrices [q, words] and [g, words]; an item is correct for a query with a common word.
    """
    found = []
    for start in range(0, len(queries), ROWS):
        cosines = queries[start : start + ROWS] @ gallery.T
        right = (asked[start : start + ROWS] @ held.T).toarray() > 0
        best = np.where(right, cosines, -np.inf).max(axis=1, keepdims=True)
        before = ~(cosines < best - TIE) & ~right  # NaN comes before all
        found.append(before.sum(axis=1))
    return np.concatenate(found)


def _embed(
    predict: Predict, batches: Callable[[], Iterable[Batch]]
) -> tuple[np.ndarray, np.ndarray, list[int], list[str]]:
    """Embeddings of images [n, e] and captions [m, e], each caption's image, and the captions."""
    images: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    owners: list[int] = []
    captions: list[str] = []
    for batch in batches():
        counts = np.array([len(own[:CAPTIONS]) for own in batch["captions"]]) * np.asarray(batch["mask"], bool)
        numbers = len(images) + np.cumsum(counts > 0) - 1
        for i in range(max(counts.max(initial=0), 1)):  # at least once: all processes must take part
            rows = np.flatnonzero(counts > i).tolist()
            asked = [own[i] if i < len(own) else "" for own in batch["captions"]]
            outputs = predict({**batch, "text": asked})
            if i == 0:
                images.extend(outputs["image_embedding"][rows])
            texts.extend(outputs["text_embedding"][rows])
            owners.extend(numbers[rows].tolist())
            captions.extend(asked[row] for row in rows)
    return np.array(images), np.array(texts), owners, captions


def _words(owners: Sequence[int], captions: Sequence[str]) -> tuple[Any, Any]:
    """Which of the distinct captions each image has, and which each caption is."""
    from scipy.sparse import csr_array  # slow to import, and needed by few commands

    known: dict[str, int] = {}
    words = [known.setdefault(" ".join(caption.lower().split()), len(known)) for caption in map(canonical, captions)]
    ones = np.ones(len(captions), np.int32)
    images = csr_array((ones, (owners, words)), shape=(max(owners) + 1, len(known)))
    return images, csr_array((ones, (range(len(captions)), words)), shape=(len(captions), len(known)))


EVALUATOR = EvaluatorSpec(
    build=lambda config: retrieval,
    metrics=lambda config: NAMES,
    predictions=("image_embedding", "text_embedding"),
    fields=("image", "text"),
)
