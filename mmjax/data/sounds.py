"""A folder of sounds with captions: ROOT/SPLIT/ holds the sounds and captions.jsonl, see mmjax.data.folder_dataset."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mmjax.config import DataConfig
from mmjax.data.folder_dataset import Kind, check_present, read_captions, read_listed
from mmjax.data.sound import SoundError, check_soundfile, frames_of, log_mel, read_samples
from mmjax.data.source import Reading, Source

PROVIDES = ("image", "text")
KIND = Kind("sound", "name.wav", "what is heard")


def open_sounds(config: DataConfig, training: bool) -> Source:
    """Sounds with their captions, in the order of captions.jsonl.

    "image" is [b, y, x, 1]: log-mel features, y mel bins from low to high and x frames of 10 ms. Training draws which
    part of a long sound is taken; evaluation takes the middle.

    Raises:
        UserError: where something is missing, a line is not as it should be, or soundfile is not installed.
    """
    audio, split = config.audio, config.train_split if training else config.evaluation_split
    folder = Path(config.root) / split
    captions = read_captions(folder, KIND)
    names = list(captions)
    check_present(folder, names, KIND, lambda path, is_folder: check_soundfile(path))

    def all_captions() -> Iterator[str]:
        return (caption for name in names for caption in captions[name])

    def shape(reading: Reading) -> tuple[int, ...]:
        return audio.bins, frames_of(audio.rate, audio.seconds), 1

    def load(reading: Reading, epoch: int, key: int) -> Float32[np.ndarray, "y x 1"]:
        # The last number keeps these draws apart from that of the caption.
        place = np.random.default_rng((reading.seed, epoch, key, 1)).random() if reading.training else 0.5
        return log_mel(read_samples(folder / names[key], audio.rate, audio.seconds, place), audio.rate, audio.bins)

    read = read_listed(captions, KIND, shape, load, SoundError)
    return Source("audio_folder", len(names), PROVIDES, all_captions, read)
