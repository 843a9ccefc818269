"""How often the checker of scenes is right: on the renderer's own pictures, disturbed ones, and false captions.

python benchmarks/scene_checker.py --pictures=2000
"""

import argparse
import io
import time

import numpy as np
from PIL import Image, ImageFilter

from mmjax.scenes.check import judge
from mmjax.scenes.draw import example
from mmjax.scenes.grammar import COLORS, SHAPES


def plain(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return picture


def noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(picture + rng.normal(0, 10, picture.shape)), 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def blur(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2)))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000, help="for each row; half of them held out")
    count = parser.parse_args().pictures
    print("disturbed by, pixels, mode: share right in all; share of false captions called true; milliseconds a picture")
    cases = [(change, size) for change in (plain, noise, jpeg) for size in (32, 64, 128)] + [(blur, 32)]
    for change, size in cases:
        for determined in (True, False):
            rng = np.random.default_rng(0)
            right, fooled, begin = 0, 0, time.perf_counter()
            for i in range(count):
                picture, caption = example(i, size, 1, determined, held_out=i % 2 == 0)
                picture = change(picture, rng)
                right += judge(picture, caption).all
                fooled += judge(picture, falsify(caption, rng)).all
            spent = (time.perf_counter() - begin) / count / 2 * 1e3
            mode = "determined" if determined else "open"
            print(
                f"{change.__name__:>6} {size:4d} {mode:>11}: {right / count:.4f}  {fooled / count:.4f}  {spent:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
