"""Folder of clips with captions; see mmjax.data.folder_dataset.

A clip is a file (mp4 or another that PyAV reads, or an animated GIF) or a folder of numbered frames (PNG, JPEG).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mmjax.config import DataConfig
from mmjax.data.clip import ANIMATIONS, ClipError, check_pyav, read_frames
from mmjax.data.folder_dataset import FolderKind, open_folder
from mmjax.data.image import normalize, resized_crop
from mmjax.data.source import ReadSpec, Source, SourceSpec, captioned_images

KIND = FolderKind("clip", "name.mp4", "what it shows")


def open_clips(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens captioned clips, in the order of captions.jsonl.

    "image" is [b, f, y, x, 3], or [b, y, x, 3] if data.frames is 1. Training samples start, crop and flip; evaluation
    takes the middle.

    Raises:
        UserError: where a file is missing, a line is invalid, or PyAV is needed and not installed.
    """
    features = captioned_images(config)

    def load(path: Path, spec: ReadSpec, epoch: int, key: int) -> Float32[np.ndarray, "*f y x 3"]:
        start, down, across, mirror = 0.5, 0.5, 0.5, 1.0
        if spec.training:
            # 1: a random stream independent of the choice of the caption.
            start, down, across, mirror = np.random.default_rng((spec.seed, epoch, key, 1)).random(4)
        flip = spec.flip and mirror < 0.5

        def crop(image: Image.Image) -> UInt8[np.ndarray, "y x 3"]:
            cropped = resized_crop(image, spec.resize, spec.size, (down, across))
            return cropped[:, ::-1] if flip else cropped

        clip = read_frames(path, config.frames, config.frame_rate, spec.resize, start, crop)
        return normalize(clip.reshape(features["image"].shape))

    folder = Path(config.root) / config.split(training)
    return open_folder("clips_folder", folder, KIND, features, load, ClipError, _check)


def _check(path: Path, is_folder: bool) -> None:
    if not is_folder and not path.name.lower().endswith(ANIMATIONS):
        check_pyav(path)


SOURCE = SourceSpec(captioned_images, open_clips, gives_clips=True)
