"""Accuracy of the scene checkers on rendered images and clips, disturbed ones, and false captions.

python benchmarks/scene_checker.py --images=2000 --clips=1000
"""

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from mmjax.scenes import motion
from mmjax.scenes.check import judge
from mmjax.scenes.draw import example
from mmjax.scenes.grammar import COLORS, SHAPES
from mmjax.scenes.motion import DIRECTIONS, judge_clip

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
FRAMES = 8


def plain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(image + rng.normal(0, 10, image.shape)), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))


def falsify(caption: str, rng: np.random.Generator) -> str:
    """The caption with the shape or the color of its first thing changed to another one."""
    words = caption.split()
    for known in (SHAPES, tuple(COLORS))[:: 1 if rng.random() < 0.5 else -1]:
        place = next(i for i, word in enumerate(words) if word in known)
        others = [word for word in known if word != words[place]]
        changed = [*words[:place], others[rng.integers(len(others))], *words[place + 1 :]]
        kinds = [word for word in changed if word in SHAPES or word in COLORS]
        if kinds[:2] != kinds[2:]:  # two things alike are no scene
            return " ".join(changed)
    raise AssertionError(caption)


def falsify_motion(caption: str, rng: np.random.Generator) -> str:
    """The caption with one of its three words changed to another one."""
    words = caption.split()
    place, known = ((1, tuple(COLORS)), (2, SHAPES), (4, tuple(DIRECTIONS)))[rng.integers(3)]
    others = [word for word in known if word != words[place]]
    return " ".join([*words[:place], others[rng.integers(len(others))], *words[place + 1 :]])


def falsify_clip(clip: np.ndarray, scene: motion.Moving, rng: np.random.Generator) -> np.ndarray:
    """The clip backwards, standing still, out of order, or with one frame of a clip of another shape and color."""
    kind = rng.integers(4)
    if kind == 0:
        return clip[::-1]
    if kind == 1:
        return np.repeat(clip[:1], len(clip), axis=0)
    if kind == 2:
        while True:
            order = rng.permutation(len(clip))
            if np.sum(np.diff(order) < 0) >= 2:  # else it is nearly in order
                return clip[order]
    others = [other for other in motion.scenes(False) if other.shape != scene.shape and other.color != scene.color]
    other = motion.draw(others[rng.integers(len(others))], clip.shape[1], len(clip), rng)
    changed = clip.copy()
    changed[rng.integers(len(clip))] = other[rng.integers(len(clip))]
    return changed


def judge_images(change: Change, size: int, fully_specified: bool, count: int) -> None:
    rng = np.random.default_rng(0)
    right, fooled, begin = 0, 0, time.perf_counter()
    for i in range(count):
        image, caption = example(i, size, 1, fully_specified, held_out=i % 2 == 0)
        image = change(image, rng)
        right += judge(image, caption).all
        fooled += judge(image, falsify(caption, rng)).all
    spent = (time.perf_counter() - begin) / count / 2 * 1e3
    mode = "fully_specified" if fully_specified else "open"
    print(
        f"{change.__name__:>6} {size:4d} {mode:>11}: {right / count:.4f}  {fooled / count:.4f}  {spent:.1f}", flush=True
    )


def judge_clips(change: Change, size: int, count: int) -> None:
    rng = np.random.default_rng(0)
    right, fooled, fooled_by_clips, begin = 0, 0, 0, time.perf_counter()
    for i in range(count):
        clip, caption = motion.example(i, size, FRAMES, 1, held_out=i % 2 == 0)
        false = falsify_clip(clip, motion.parse(caption), rng)
        clip, false = (np.stack([change(frame, rng) for frame in frames]) for frames in (clip, false))
        right += judge_clip(clip, caption).all
        fooled += judge_clip(clip, falsify_motion(caption, rng)).all
        fooled_by_clips += judge_clip(false, caption).all
    spent = (time.perf_counter() - begin) / count / 3 * 1e3
    shares = "  ".join(f"{number / count:.4f}" for number in (right, fooled, fooled_by_clips))
    print(f"{change.__name__:>6} {size:4d}: {shares}  {spent:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="for each row; half of them held out; 0: none")
    parser.add_argument("--clips", type=int, default=1000, help=f"of {FRAMES} frames, likewise")
    given = parser.parse_args()
    cases: list[tuple[Change, int]] = [(change, size) for change in (plain, noise, jpeg) for size in (32, 64, 128)]
    cases.append((blur, 32))
    if given.images:
        print("disturbed by, pixels, mode: share right in all; share of false captions called true; ms an image")
        for change, size in cases:
            for fully_specified in (True, False):
                judge_images(change, size, fully_specified, given.images)
    if given.clips:
        print(
            "clips, disturbed by, pixels: share right in all; of false captions, of false clips called true; ms a clip"
        )
        for change, size in cases:
            judge_clips(change, size, given.clips)


if __name__ == "__main__":
    main()
