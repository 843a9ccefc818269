"""A folder of clips with captions, without TensorFlow.

ROOT/SPLIT/ holds the clips, each a file (mp4 or whatever else PyAV reads, or an animated GIF) or a folder of numbered
frames (PNG, JPEG), and captions.jsonl; see mmjax.data.folder_dataset.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mmjax.config import DataConfig
from mmjax.data.clip import ANIMATIONS, ClipError, check_pyav, read_frames
from mmjax.data.folder_dataset import Kind, check_present, read_captions, read_listed
from mmjax.data.image import resized_crop
from mmjax.data.source import Reading, Source

PROVIDES = ("image", "text")
KIND = Kind("clip", "name.mp4", "what it shows")


def open_clips(config: DataConfig, training: bool) -> Source:
    """Clips with their captions, in the order of captions.jsonl.

    "image" is [b, f, y, x, 3], or [b, y, x, 3] where data.frames is 1. Training draws the start of a clip, the place of
    the crop and the mirroring, the same for all of its frames; evaluation takes the middle of each.

    Raises:
        UserError: where something is missing, a line is not as it should be, or a clip needs PyAV and it is missing.
    """
    split = config.train_split if training else config.evaluation_split
    folder = Path(config.root) / split
    captions = read_captions(folder, KIND)
    names = list(captions)
    check_present(folder, names, KIND, _check)

    def all_captions() -> Iterator[str]:
        return (caption for name in names for caption in captions[name])

    def shape(reading: Reading) -> tuple[int, ...]:
        side = reading.size
        return (side, side, 3) if config.frames == 1 else (config.frames, side, side, 3)

    def load(reading: Reading, epoch: int, key: int) -> Float32[np.ndarray, "*f y x 3"]:
        start, down, across, mirror = 0.5, 0.5, 0.5, 1.0
        if reading.training:
            # The last number keeps these draws apart from that of the caption.
            start, down, across, mirror = np.random.default_rng((reading.seed, epoch, key, 1)).random(4)
        flip = reading.flip and mirror < 0.5

        def crop(image: Image.Image) -> UInt8[np.ndarray, "y x 3"]:
            cropped = resized_crop(image, reading.resize, reading.size, (down, across))
            return cropped[:, ::-1] if flip else cropped

        clip = read_frames(folder / names[key], config.frames, config.frame_rate, reading.resize, start, crop)
        return clip.reshape(shape(reading)) / np.float32(127.5) - np.float32(1)

    read = read_listed(captions, KIND, shape, load, ClipError)
    return Source("clips_folder", len(names), PROVIDES, all_captions, read)


def _check(path: Path, is_folder: bool) -> None:
    if not is_folder and not path.name.lower().endswith(ANIMATIONS):
        check_pyav(path)
