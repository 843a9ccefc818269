import numpy as np

from mmjax.evaluate.scenes import caption_faithfulness
from mmjax.scenes import draw
from mmjax.scenes.grammar import parse

OWN = "a small red circle left of a large blue square"
OPEN = "a red circle left of a blue square"


def metric(written: list[str], own: list[list[str]]) -> float | None:
    """Of images of OWN; behind them a row of padding with a caption that is true."""
    image = draw.draw(parse(OWN), 47, np.random.default_rng(0)).astype(np.float32) / 127.5 - 1
    batch = {
        "image": np.stack([image] * (len(written) + 1)),
        "mask": np.array([True] * len(written) + [False]),
        "captions": [*own, [OWN]],
    }
    found = dict(caption_faithfulness(lambda batch: {"caption": [*written, OWN]}, lambda: [batch]))
    assert found.keys() <= {"captions/true"}
    return found.get("captions/true")


def test_true_captions() -> None:
    # The same said the other way round is as true.
    assert metric([OWN, "a large blue square right of a small red circle"], [[OWN]] * 2) == 1


def test_any_wrong_word_makes_a_caption_false() -> None:
    wrong = [
        "a small red ring left of a large blue square",
        "a small green circle left of a large blue square",
        "a large red circle left of a large blue square",
        "a small red circle right of a large blue square",
        "a small red circle left of a large blue square .",
        "a small red circle",
        "a small red circle left of a small red circle",
        "",
    ]
    for caption in wrong:
        assert metric([caption], [[OWN]]) == 0, caption
    assert metric([*wrong, OWN], [[OWN]] * 9) == 1 / 9


def test_sizes_are_required_only_if_the_own_caption_has_them() -> None:
    assert metric([OPEN], [[OWN]]) == 0
    assert metric([OPEN], [[OPEN, OWN]]) == 1
    assert metric([OWN], [[OPEN]]) == 1
    assert metric(["a large red circle left of a large blue square"], [[OPEN]]) == 0


def test_examples_without_captions_are_ignored() -> None:
    assert metric(["no caption", OWN], [[], [OWN]]) == 1
    assert metric(["no caption"], [[]]) is None
