import numpy as np

from mmjax.evaluate.scenes import motion
from mmjax.scenes.motion import draw, parse

CAPTIONS = ["a red circle moving left", "a green triangle moving up", "a cyan square moving down"]
ALL_RIGHT = {f"scenes/{aspect}": 1.0 for aspect in ("motion", "color", "shape", "consistency", "all")}


def clip(caption: str) -> np.ndarray:
    return draw(parse(caption), 41, 5, np.random.default_rng(0)).astype(np.float32) / 127.5 - 1


def metrics(clips: list[np.ndarray]) -> dict[str, float]:
    batch = {
        "mask": np.array([True] * len(clips) + [False] * 2),
        "id": [""] * (len(clips) + 2),
        "captions": [[caption, "never read"] for caption in CAPTIONS[: len(clips)]] + [[], []],
    }
    images = np.stack([*clips, np.zeros_like(clips[0]), np.zeros_like(clips[0])])
    return dict(motion(lambda batch: {"image": images}, lambda: [batch]))


def test_matching_clips_are_correct() -> None:
    assert metrics([clip(caption) for caption in CAPTIONS]) == ALL_RIGHT


def test_each_error_affects_its_own_metric() -> None:
    changing = clip(CAPTIONS[2])
    changing[3:] = clip("a cyan ring moving down")[3:]
    wrong = metrics([clip("a red circle moving right"), clip("a purple triangle moving up"), changing])
    expected = ALL_RIGHT | {"scenes/motion": 2 / 3, "scenes/color": 2 / 3, "scenes/consistency": 2 / 3}
    assert wrong == expected | {"scenes/all": 0.0}


def test_empty_images_are_wrong_in_all() -> None:
    assert set(metrics([np.full((5, 41, 41, 3), -1, np.float32)]).values()) == {0.0}


def test_no_examples_gives_no_metric() -> None:
    assert not list(motion(lambda batch: {}, list))
