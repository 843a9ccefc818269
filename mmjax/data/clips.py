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
from mmjax.data.folder_dataset import FolderKind, check_present, read_captions, read_folder
from mmjax.data.image import resized_crop
from mmjax.data.source import ReadSpec, Source, SourceSpec, captioned_images

KIND = FolderKind("clip", "name.mp4", "what it shows")


def open_clips(config: DataConfig, training: bool, seed: int) -> Source:
    """Clips with their captions, in the order of captions.jsonl.

    "image" is [b, f, y, x, 3], or [b, y, x, 3] where data.frames is 1. Training draws the start of a clip, the place of
    the crop and the mirroring, the same for all of its frames; evaluation takes the middle of each.

    Raises:
        UserError: where something is missing, a line is not as it should be, or a clip needs PyAV and it is missing.
    """
    folder = Path(config.root) / config.split(training)
    captions = read_captions(folder, KIND)
    names = list(captions)
    check_present(folder, names, KIND, _check)

    def all_captions() -> Iterator[str]:
        return (caption for name in names for caption in captions[name])

    features = captioned_images(config)
    shape = features["image"].shape

    def load(spec: ReadSpec, epoch: int, key: int) -> Float32[np.ndarray, "*f y x 3"]:
        start, down, across, mirror = 0.5, 0.5, 0.5, 1.0
        if spec.training:
            # The last number keeps these draws apart from that of the caption.
            start, down, across, mirror = np.random.default_rng((spec.seed, epoch, key, 1)).random(4)
        flip = spec.flip and mirror < 0.5

        def crop(image: Image.Image) -> UInt8[np.ndarray, "y x 3"]:
            cropped = resized_crop(image, spec.resize, spec.size, (down, across))
            return cropped[:, ::-1] if flip else cropped

        clip = read_frames(folder / names[key], config.frames, config.frame_rate, spec.resize, start, crop)
        return clip.reshape(shape) / np.float32(127.5) - np.float32(1)

    read = read_folder(captions, KIND, shape, load, ClipError)
    return Source("clips_folder", len(names), features, all_captions, read)


def _check(path: Path, is_folder: bool) -> None:
    if not is_folder and not path.name.lower().endswith(ANIMATIONS):
        check_pyav(path)


SOURCE = SourceSpec(captioned_images, open_clips, gives_clips=True)
