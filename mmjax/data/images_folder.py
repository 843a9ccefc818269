"""Folder of images with captions (see folder_dataset): ROOT/SPLIT/ holds them and captions.jsonl, with lines such as:

{"image": "name.jpg", "captions": ["a dog runs over a meadow", "a dog on grass"]}
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mmjax.config import DataConfig
from mmjax.data.folder_dataset import FolderKind, Unusable, open_folder
from mmjax.data.image import load_image, normalize, resized_crop
from mmjax.data.source import ReadSpec, Source, SourceSpec, captioned_images
from mmjax.files import read_regular
from mmjax.types import UserError

KIND = FolderKind("image", '{"image": "name.jpg", "captions": ["what it shows"]}', lambda path: None)


def open_images(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens captioned images, in the order of captions.jsonl. Training samples crop and flip, evaluation the middle.

    Raises:
        UserError: where a file is missing or a line is invalid.
    """

    def load(path: Path, spec: ReadSpec, epoch: int, key: int) -> Float32[np.ndarray, "y x 3"]:
        down, across, mirror = 0.5, 0.5, 1.0
        if spec.training:
            # 1: a random stream independent of the choice of the caption.
            down, across, mirror = np.random.default_rng((spec.seed, epoch, key, 1)).random(3)
        try:
            image = np.asarray(load_image(path.name, spec.resize, read_regular(path)))
        except (OSError, UserError) as error:
            reason = str(error).removeprefix(f"{path.name}: ")
            raise Unusable(f"cannot be read: {reason}") from error
        cropped = resized_crop(image, spec.resize, spec.size, (down, across))
        return normalize(cropped[:, ::-1] if spec.flip and mirror < 0.5 else cropped)

    features = captioned_images(config)
    return open_folder("images_folder", Path(config.root) / config.split(training), KIND, features, load)


SOURCE = SourceSpec(captioned_images, open_images)
