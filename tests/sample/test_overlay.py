"""Overlays of attention maps."""

import numpy as np

from mmjax.sample.overlay import COLUMNS, LABEL, draw_attention_maps, overlay

IMAGE = np.random.default_rng(0).integers(0, 256, (22, 44, 3)).astype(np.uint8)


def test_overlay_is_gray_at_zero_and_bright_at_the_maximum() -> None:
    looked = np.zeros((2, 4), np.float32)
    looked[1, 3] = 0.25
    seen = overlay(np.full((22, 44, 3), 50, np.uint8), looked)
    assert seen.shape == (22, 44, 3) and (seen[:11, :22] == 50).all()
    assert seen[-1, -1, 0] > 180 and seen[-1, -1, 0] == seen[..., 0].max()
    np.testing.assert_array_equal(seen, overlay(np.full((22, 44, 3), 50, np.uint8), 3 * looked))
    gray = overlay(IMAGE, np.zeros((2, 4), np.float32))
    np.testing.assert_allclose(gray, np.repeat(IMAGE.mean(axis=-1, keepdims=True), 3, axis=-1), atol=0.51)


def test_sheet_has_a_tile_for_each_word() -> None:
    maps = np.random.default_rng(1).random((11, 2, 4)).astype(np.float32)
    images, titles = [IMAGE, IMAGE[::-1]], ["one.png", "a name that is much too long for its place.png"]
    sheet = draw_attention_maps(images, titles, [[f"word{i}" for i in range(11)], []], [maps, maps[:0]])
    high, wide = 22 * 7, 44 * 7  # the short side at about 160 pixels
    assert sheet.shape == (3 * (high + LABEL), COLUMNS * wide, 3)  # eleven words and the image take two lines
    large = IMAGE.repeat(7, axis=0).repeat(7, axis=1)
    np.testing.assert_array_equal(sheet[:high, :wide], large)
    np.testing.assert_array_equal(sheet[:high, wide : 2 * wide], overlay(large, maps[0]))
    second = high + LABEL
    np.testing.assert_array_equal(sheet[second : second + high, wide : 2 * wide], overlay(large, maps[10]))
    third = 2 * second
    np.testing.assert_array_equal(sheet[third : third + high, :wide], large[::-1])
    assert (sheet[third:, wide:] == 255).all() and (sheet[second:third, 2 * wide :] == 255).all()
    label = sheet[high:second, wide : 2 * wide].min(axis=(0, 2))
    assert label.min() < 100 and (label[: wide // 4] == 255).all()  # below the word's image, in its middle
    assert (sheet[third + high :, : wide - 1].min(axis=(0, 2))[-3:] == 255).all()  # what is too long is cut
