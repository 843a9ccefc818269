"""What is kept and what is sampled: masks, variations, and missing frames of clips."""

from typing import Any

import numpy as np
import pytest

from mmjax.sample.editing import frame_groups, keep, start
from mmjax.sample.postprocess import to_uint8
from mmjax.types import UserError

SEEDS = np.array([3, 11], np.int32)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3)).astype(np.uint8)
CLIPS = np.random.default_rng(1).integers(0, 256, (2, 6, 20, 20, 3)).astype(np.uint8)
MASK = np.zeros((2, 20, 20), np.uint8)
MASK[0, 7, 12] = 255


def images(**given: Any) -> Any:
    return start((5, 5), 20, 1, SEEDS, **given)


def clips(**given: Any) -> Any:
    return start((3, 5, 5), 20, 6, SEEDS, **given)  # the first frame, 3 frames, and the 2 that are left


def test_all_tokens_are_sampled_without_an_image() -> None:
    begin = images()
    assert begin.masked.shape == (2, 5, 5) and begin.masked.all() and begin.image is None
    np.testing.assert_array_equal(keep(IMAGES, begin), IMAGES)


def test_masked_pixel_resamples_its_token_only() -> None:
    begin = images(image=IMAGES, mask=MASK)
    assert np.argwhere(begin.masked).tolist() == [[0, 1, 3]]
    result = keep(np.full_like(IMAGES, 7), begin)
    assert (result[0, 7, 12] == 7).all()
    changed = (result != IMAGES).any(-1)
    assert changed.sum() <= 1 and not changed[1].any()
    np.testing.assert_array_equal(to_uint8(begin.image), IMAGES)
    both = images(image=IMAGES, mask=MASK.astype(bool))
    np.testing.assert_array_equal(both.masked, begin.masked)


@pytest.mark.parametrize("fraction", [0.01, 0.4, 1.0])
def test_variation_resamples_a_fraction_by_seed(fraction: float) -> None:
    begin = images(image=IMAGES, variation=fraction)
    assert (begin.masked.sum((1, 2)) == max(round(25 * fraction), 1)).all()
    assert (begin.resampled.sum((1, 2)) == 16 * max(round(25 * fraction), 1)).all()
    alone = start((5, 5), 20, 1, SEEDS[1:], image=IMAGES[1:], variation=fraction)
    np.testing.assert_array_equal(alone.masked[0], begin.masked[1])
    if fraction == 0.4:
        assert (begin.masked[0] != begin.masked[1]).any()


@pytest.mark.parametrize(("given", "kept"), [(1, 1), (3, 1), (4, 2), (5, 2)])
def test_missing_frames_are_sampled(given: int, kept: int) -> None:
    begin = clips(image=CLIPS[:, :given])
    assert not begin.masked[:, :kept].any() and begin.masked[:, kept:].all()
    result = keep(np.full_like(CLIPS, 7), begin)
    np.testing.assert_array_equal(result[:, :given], CLIPS[:, :given])
    assert (result[:, given:] == 7).all()


def test_clip_masks_are_by_frame() -> None:
    mask = np.zeros((2, 6, 20, 20), np.bool_)
    mask[1, 2, 0, 0] = True
    assert np.argwhere(clips(image=CLIPS, mask=mask).masked).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize(("frames", "grids"), [(1, 1), (6, 3), (8, 3), (9, 3), (8, 5), (16, 5)])
def test_frame_groups_partition_the_frames(frames: int, grids: int) -> None:
    groups = frame_groups(frames, grids)
    assert len(groups) == grids and [i for group in groups for i in group] == list(range(frames))
    assert len(groups[0]) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": MASK}, "mask: needs an image"),
        ({"variation": 0.5}, "variation: needs an image"),
        ({"image": IMAGES}, "image: needs a mask or a variation"),
        ({"image": IMAGES[:1], "variation": 0.5}, r"image: must be \[2, 20, 20, 3\], not \[1, 20, 20, 3\]"),
        ({"image": CLIPS, "variation": 0.5}, r"image: must be \[2, 20, 20, 3\]"),
        ({"image": IMAGES.astype(float), "variation": 0.5}, "image: must be float32 or uint8, not float64"),
        ({"image": IMAGES.astype(np.float32), "variation": 0.5}, "image: values must be from -1"),
        ({"image": IMAGES, "variation": 0.0}, "variation: must be above 0 and at most 1, not 0.0"),
        ({"image": IMAGES, "variation": float("nan")}, "variation: must be above 0"),
        (
            {"image": IMAGES, "mask": MASK[:, :19]},
            r"mask: must be bool or uint8 \[2, 20, 20\], not uint8 \[2, 19, 20\]",
        ),
        ({"image": IMAGES, "mask": MASK[..., None]}, r"mask: must be bool or uint8 \[2, 20, 20\]"),
        ({"image": IMAGES, "mask": MASK // 2}, "1 of 800 pixels are grey, such as 127"),
        ({"image": IMAGES, "mask": MASK.astype(float)}, "mask: must be bool or uint8"),
    ],
)
def test_invalid_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        images(**given)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.repeat(CLIPS, 2, axis=1), "image: has 12 frames, and the model's clips have 6"),
        (CLIPS, "image: needs a mask or a variation"),
        (IMAGES, r"image: must be \[2, 1, 20, 20, 3\].*a clip has at most 6 frames"),
    ],
)
def test_invalid_clips(image: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clips(image=image)
