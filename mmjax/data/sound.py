"""Sounds as log-mel features, and folders of sounds with captions (see mmjax.data.folder_dataset).

soundfile (the extra `audio`) reads WAV, FLAC, OGG, MP3 and others.
"""

import functools
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data.folder_dataset import FolderKind, Unusable, open_folder, require_package
from mmjax.data.source import TEXT, ReadSpec, Source, SourceSpec
from mmjax.files import is_regular
from mmjax.types import Feature, UserError

WINDOW, HOP = 0.025, 0.01  # seconds
MIN_POWER = 1e-10  # of a mel bin; lower ones are clipped
DECIBELS = (-100.0, 20.0)  # become -1 and 1
SILENCE = 1e-4  # amplitude below which a sound is silent, -80 dB
BREAK, SLOPE = 1000.0, 200.0 / 3  # Slaney's mel scale: linear up to this frequency in Hz, with this many Hz per mel

check_soundfile = functools.partial(require_package, module="soundfile", name="soundfile", extra="audio")
KIND = FolderKind("sound", '{"sound": "name.wav", "captions": ["what is heard"]}', check_soundfile)


def read_sound(
    path: str | Path, rate: int = 16_000, seconds: float = 10.0, bins: int = 128
) -> Float32[np.ndarray, "{bins} x 1"]:
    """Reads the middle of a sound as log-mel features, float32 [y = bins, x = frames, 1]; see log_mel.

    Args:
        rate: sample rate in Hz, to which it is resampled.
        seconds: duration; shorter sounds are padded with silence.

    Raises:
        UserError: for a file that is missing, broken, empty or silent, or where soundfile is not installed.
    """
    check_soundfile(Path(path))
    try:
        return log_mel(read_samples(Path(path), rate, seconds, 0.5), rate, bins)
    except Unusable as error:
        raise UserError(f"{path}: {error}") from error


def read_samples(path: Path, rate: int, seconds: float, place: float) -> Float32[np.ndarray, " samples"]:
    """Reads a crop of a sound as mono samples at `rate`, zero-padded at the end.

    Args:
        place: of the crop, from 0 (the beginning) to 1 (the end).

    Raises:
        Unusable: where it is unreadable, empty, silent or not finite.
    """
    import soundfile

    if not path.exists():
        raise Unusable("no such file; give the path of a sound")
    if not is_regular(path):
        raise Unusable("is no regular file")
    try:
        with soundfile.SoundFile(path) as file:
            length = math.ceil(seconds * file.samplerate)
            first = round(place * max(file.frames - length, 0))
            file.seek(first)
            file_rate, samples = file.samplerate, file.read(length, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).removeprefix(f"Error opening {str(path)!r}: ")
        raise Unusable(f"cannot be read as a sound: {reason}") from error
    if not len(samples):
        raise Unusable("holds no sound")
    if not np.all(np.isfinite(samples)):
        raise Unusable("holds values that are no numbers")
    if np.max(np.abs(samples)) < SILENCE:
        raise Unusable(f"is silent from {first / file_rate:.1f} s to {(first + len(samples)) / file_rate:.1f} s")
    samples = samples.mean(axis=1)
    if file_rate != rate:
        from scipy.signal import resample_poly  # slow to import

        divisor = math.gcd(file_rate, rate)
        samples = resample_poly(samples, rate // divisor, file_rate // divisor).astype(np.float32)
    kept = np.zeros(round(seconds * rate), np.float32)
    kept[: len(samples)] = samples[: len(kept)]
    return kept


def log_mel(samples: Float[np.ndarray, " samples"], rate: int, bins: int) -> Float32[np.ndarray, "{bins} x 1"]:
    """Log-mel features of samples from -1 to 1, float32 [y = bins from low to high, x = frames, 1], about -1 to 1.

    Power of Hann windows of 25 ms every 10 ms, centered on the first sample, in mel bins up to half the rate (Slaney's
    scale, filters of area 1); decibels from -100 to 20 are scaled to -1 to 1.
    """
    decibels = 10 * np.log10(np.maximum(mel_power(samples, rate, bins), MIN_POWER))
    low, high = DECIBELS
    return ((2 * decibels - low - high) / (high - low)).astype(np.float32)[..., None]


def mel_power(samples: Float[np.ndarray, " samples"], rate: int, bins: int) -> Float64[np.ndarray, "{bins} x"]:
    """The power in each mel bin around each 10 ms."""
    window, hop = round(WINDOW * rate), round(HOP * rate)
    width = 2 ** math.ceil(math.log2(2 * window))  # zero-padded, as the lowest bins are narrow
    frames = len(samples) // hop
    padded = np.concatenate([np.zeros(width // 2), samples, np.zeros(width // 2)])
    pieces = np.lib.stride_tricks.sliding_window_view(padded, width)[: frames * hop : hop]
    before = (width - window) // 2
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectra = np.fft.rfft(pieces[:, before : before + window] * hann, width)  # the offset changes phases only
    return mel_filters(rate, width, bins) @ (spectra.real**2 + spectra.imag**2).T


@functools.lru_cache(maxsize=8)
def mel_filters(rate: int, width: int, bins: int) -> Float64[np.ndarray, "{bins} k"]:
    """Triangular filters of area 1 in Hz over the frequencies of a real FFT of `width` samples.

    Slaney, Auditory Toolbox (1998): corners are evenly spaced in mels, linear up to 1,000 Hz and logarithmic above, 27
    mels per factor of 6.4.
    """
    top, linear = rate / 2, BREAK / SLOPE
    last = top / SLOPE if top < BREAK else linear + 27 * math.log(top / BREAK) / math.log(6.4)
    mels = np.linspace(0, last, bins + 2)
    corners = np.where(mels < linear, SLOPE * mels, BREAK * np.exp((mels - linear) * math.log(6.4) / 27))
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    frequencies = np.linspace(0, top, width // 2 + 1)
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(np.minimum(rising, falling), 0) * 2 / (high - low)


def frames_of(rate: int, seconds: float) -> int:
    """The number of frames of log_mel."""
    return round(seconds * rate) // round(HOP * rate)


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

    return open_folder("audio_folder", Path(config.root) / config.split(training), KIND, features(config), load)


SOURCE = SourceSpec(features, open_sounds, check, settings=("audio",))
