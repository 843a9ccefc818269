"""Folder of sounds with captions; see mmjax.data.folder_dataset."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data.folder_dataset import FolderKind, open_folder
from mmjax.data.sound import SoundError, check_soundfile, frames_of, log_mel, read_samples
from mmjax.data.source import TEXT, ReadSpec, Source, SourceSpec
from mmjax.types import Feature

KIND = FolderKind("sound", "name.wav", "what is heard")


def features(config: DataConfig) -> dict[str, Feature]:
    audio = config.audio
    return {"image": Feature("image", (audio.bins, frames_of(audio.rate, audio.seconds), 1)), "text": TEXT}


def check(config: DataConfig, field: str) -> None:
    """Raises UserError for invalid audio settings."""
    audio = config.audio
    require(audio.rate >= 1000, f"{field}.audio.rate: must be at least 1000 samples a second, not {audio.rate}")
    require(audio.rate % 100 == 0, f"{field}.audio.rate: must be a multiple of 100, as 16000 is, not {audio.rate}")
    require(0.1 <= audio.seconds <= 600, f"{field}.audio.seconds: must be from 0.1 to 600, not {audio.seconds:g}")
    require(not config.flip, f"{field}.flip: sounds are not mirrored; set it to false")


def open_sounds(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens captioned sounds, in the order of captions.jsonl.

    "image" is [b, y, x, 1]: log-mel features, y mel bins from low to high and x frames of 10 ms. Training crops long
    sounds at random, evaluation in the middle.

    Raises:
        UserError: where a file is missing, a line is invalid, or soundfile is not installed.
    """
    audio = config.audio

    def load(path: Path, spec: ReadSpec, epoch: int, key: int) -> Float32[np.ndarray, "y x 1"]:
        # 1: a random stream independent of the choice of the caption.
        place = np.random.default_rng((spec.seed, epoch, key, 1)).random() if spec.training else 0.5
        return log_mel(read_samples(path, audio.rate, audio.seconds, place), audio.rate, audio.bins)

    folder = Path(config.root) / config.split(training)
    return open_folder(
        "audio_folder", folder, KIND, features(config), load, SoundError, lambda path, is_folder: check_soundfile(path)
    )


SOURCE = SourceSpec(features, open_sounds, check, settings=("audio",))
