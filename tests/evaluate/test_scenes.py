import numpy as np

from mmjax.evaluate.scenes import scenes
from mmjax.scenes import draw

CAPTIONS = [
    "a small red circle left of a large blue square",
    "a large green triangle above a small yellow ring",
    "a small cyan square below a large red triangle",
]


def make_image(caption: str) -> np.ndarray:
    from mmjax.scenes.grammar import parse

    return draw.draw(parse(caption), 47, np.random.default_rng(0)).astype(np.float32) / 127.5 - 1


def metrics(drawn: list[np.ndarray], captions: list[str]) -> dict[str, float]:
    batch = {
        "mask": np.array([True] * len(captions) + [False] * 2),
        "id": [""] * (len(captions) + 2),
        "captions": [[caption, "never read"] for caption in captions] + [[], []],
    }
    images = np.stack([*drawn, np.zeros_like(drawn[0]), np.zeros_like(drawn[0])])
    return dict(scenes(lambda batch: {"image": images}, lambda: [batch]))


def test_matching_images_are_correct() -> None:
    right = metrics([make_image(caption) for caption in CAPTIONS], CAPTIONS)
    assert right == {f"scenes/{aspect}": 1.0 for aspect in ("shape", "color", "size", "relation", "all")}


def test_each_error_affects_its_own_metric() -> None:
    drawn = [
        "a small red circle right of a large blue square",  # the relation
        "a large green triangle above a small purple ring",  # a color
        CAPTIONS[2],
    ]
    wrong = metrics([make_image(caption) for caption in drawn], CAPTIONS)
    assert wrong == {
        "scenes/shape": 1.0,
        "scenes/color": 2 / 3,
        "scenes/size": 1.0,
        "scenes/relation": 2 / 3,
        "scenes/all": 1 / 3,
    }


def test_empty_images_are_wrong_in_all() -> None:
    assert set(metrics([np.full((47, 47, 3), -1, np.float32)], CAPTIONS[:1]).values()) == {0.0}


def test_images_without_captions_are_ignored() -> None:
    images = np.stack([make_image(CAPTIONS[0]), make_image(CAPTIONS[1])])
    batch = {"mask": np.array([True, True]), "id": ["a", "b"], "captions": [[], [CAPTIONS[1]]]}
    found = dict(scenes(lambda batch: {"image": images}, lambda: [batch]))
    assert set(found.values()) == {1.0}
