"""Sounds as log-mel features: librosa's values, reading, resampling, and all that may be wrong with a file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from made_data import tone

from mmjax.data import read_sound
from mmjax.data.sound import frames_of, log_mel, mel_filters, mel_power, read_samples
from mmjax.types import UserError

# librosa 0.11.0, power_to_db(melspectrogram(y=chirp(rate), sr=rate, n_fft=2048 of 22050 and else 1024, win_length=0.025
# * rate, hop_length=0.01 * rate, n_mels=bins), amin=1e-10, top_db=None), every ninth bin of the frames 0, 7, 19 and 20.
LIBROSA = {
    (16_000, 64): [
        [4.6836, -94.7551, -33.2557, -12.8538], [-5.0582, -71.594, -33.2556, -12.8538],
        [-21.0436, -50.4323, -33.2556, -12.8538], [-28.869, 13.3951, -33.2446, -12.8462],
        [-36.337, -53.6689, -33.2427, -12.8393], [-43.7272, -87.728, -23.3479, -12.8478],
        [-53.4673, -100.0, -33.2546, -12.8533], [-43.0788, -100.0, -33.2538, -12.8531],
    ],
    (16_000, 128): [
        [3.7806, -100.0, -33.761, -13.3598], [14.3358, -79.9804, -32.8544, -12.4553],
        [-2.8852, -72.3797, -33.6278, -13.2245], [-15.3633, -63.7093, -32.9676, -12.5685],
        [-20.8883, -52.2243, -33.4942, -13.0932], [-24.7686, -30.4254, -33.2137, -12.8152],
        [-28.5873, 11.1693, -33.2231, -12.8238], [-32.3892, -1.9868, -33.2246, -12.8203],
        [-36.1911, -52.8307, -33.2829, -12.8764], [-39.8977, -74.3774, -33.2505, -12.8634],
        [-43.6175, -87.4444, -30.7625, -12.8593], [-47.5543, -97.3845, -21.3193, 5.6734],
        [-53.2898, -100.0, -33.2504, -12.845], [-44.7579, -79.2185, -33.2471, -12.8528],
        [-43.127, -100.0, -33.2509, -12.8508],
    ],
    (22_050, 80): [
        [8.9712, -72.4124, -35.0679, -11.2773], [0.6388, -66.9315, -35.058, -11.2679],
        [-14.453, -52.3553, -35.0683, -11.2773], [-21.9218, -10.9162, -35.0962, -11.3005],
        [-28.724, -3.408, -35.0604, -11.2657], [-35.642, -67.8217, -35.0797, -11.2693],
        [-43.2492, -90.4511, 19.7843, 16.7024], [-65.6199, -100.0, -35.0693, -11.2678],
        [-43.0831, -100.0, -35.0586, -11.2672],
    ],
}  # fmt: skip


def chirp(rate: int) -> np.ndarray:
    """A rising tone, a faint high one, and a click."""
    t = np.arange(int(0.3 * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * (200 * t + 9000 * t**2)) + 0.01 * np.sin(2 * np.pi * 6500 * t)
    samples[rate // 5] += 0.9
    return samples


@pytest.mark.parametrize(("rate", "bins"), LIBROSA)
def test_features_are_those_of_librosa(rate: int, bins: int) -> None:
    expected = np.array(LIBROSA[rate, bins])
    decibels = 10 * np.log10(np.maximum(mel_power(chirp(rate), rate, bins), 1e-10))
    assert decibels.shape == (bins, 30)
    np.testing.assert_allclose(decibels[::9, [0, 7, 19, 20]], expected, atol=1e-4)
    features = log_mel(chirp(rate), rate, bins)
    assert features.shape == (bins, 30, 1) and features.dtype == np.float32
    np.testing.assert_allclose(features[::9, [0, 7, 19, 20], 0], (expected + 40) / 60, atol=1e-5)


def test_filters_are_triangles_of_area_1() -> None:
    filters = mel_filters(16_000, 4096, 31)
    np.testing.assert_allclose(filters.sum(1) * 16_000 / 4096, 1, atol=0.01)
    peaks = filters.argmax(1) * 16_000 / 4096
    assert np.all(np.diff(peaks) > 0) and np.ptp(np.diff(peaks[peaks < 1000])) < 8  # evenly, below 1,000 Hz
    ratios = peaks[1:][peaks[:-1] > 1000] / peaks[:-1][peaks[:-1] > 1000]
    assert np.ptp(ratios) < 0.01 * ratios.mean()  # and in even steps of pitch above
    assert mel_filters(16_000, 1024, 128).max(1).min() > 0  # none is empty


def test_a_tone_is_a_row(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1000, 1.0), 16_000)
    features = read_sound(tmp_path / "a.wav", seconds=0.7, bins=64)
    assert features.shape == (64, 70, 1) == (64, frames_of(16_000, 0.7), 1)
    middle = features[:, 10:60, 0]
    assert len(set(middle.argmax(0))) == 1 and -1 <= features.min() < features.max() < 1.1
    frequency = mel_filters(16_000, 1024, 64)[middle[:, 0].argmax()].argmax() * 16_000 / 1024
    assert abs(frequency - 1000) < 40


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_other_rates_are_brought_to_one(rate: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(440, 0.9, rate), rate)
    samples = read_samples(path, 16_000, 0.8, 0.0)
    assert samples.shape == (12_800,) and samples.dtype == np.float32
    loss = 0.03 if suffix == "ogg" else 2e-3
    inner = slice(800, -800)  # the filter sees the edges
    assert np.abs(samples[inner] - tone(440, 0.8)[inner]).max() < loss


def test_what_lies_above_half_the_rate_is_taken_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(11_000, 0.5, 44_100) + tone(300, 0.5, 44_100), 44_100)
    samples = read_samples(tmp_path / "a.wav", 16_000, 0.5, 0.0)
    assert np.abs(samples - tone(300, 0.5))[800:-800].max() < 5e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    channels = np.stack([tone(300), tone(500), np.zeros(4800)], 1)
    soundfile.write(tmp_path / "a.wav", channels, 16_000, subtype="DOUBLE")
    np.testing.assert_allclose(read_samples(tmp_path / "a.wav", 16_000, 0.3, 0.0), channels.mean(1), atol=1e-6)


def test_a_short_sound_is_followed_by_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(300, 0.2), 16_000)
    samples = read_samples(tmp_path / "a.wav", 16_000, 1.0, 0.7)
    assert samples.shape == (16_000,) and not np.any(samples[3200:])
    np.testing.assert_allclose(samples[:3200], tone(300, 0.2), atol=1e-4)
    features = read_sound(tmp_path / "a.wav", seconds=1.0)
    assert np.all(features[:, 25:] == -1) and np.any(features[:, :20] > 0)


def test_the_place_says_which_part_of_a_long_sound_is_taken(tmp_path: Path) -> None:
    ramp = np.linspace(0.1, 0.9, 16_000)
    soundfile.write(tmp_path / "a.wav", ramp, 16_000, subtype="FLOAT")
    for place, first in ((0.0, 0), (0.5, 6400), (1.0, 12_800)):
        found = read_samples(tmp_path / "a.wav", 16_000, 0.2, place)
        np.testing.assert_allclose(found, ramp[first : first + 3200], atol=1e-6)


def write(path: Path, content: Any) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        soundfile.write(path, content, 16_000, subtype="FLOAT")
    return path


@pytest.mark.parametrize(("content", "hint"), [
    (None, "a.wav: no such file; give the path of a sound"),
    (b"", "a.wav: cannot be read as a sound: "),
    (b"no sound at all" * 99, "a.wav: cannot be read as a sound: Format not recognised"),
    (np.zeros(0), "a.wav: holds no sound"),
    (np.zeros(16_000), r"a.wav: is silent from 0\.4 s to 0\.6 s"),
    (np.full(1600, 3e-5), r"a.wav: is silent from 0\.0 s to 0\.1 s"),
    (np.full(4800, math.nan), "a.wav: holds values that are no numbers"),
    (np.full(4800, math.inf), "a.wav: holds values that are no numbers"),
])  # fmt: skip
def test_a_sound_of_no_use_is_one_line(content: Any, hint: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", content)
    with pytest.raises(UserError, match=hint) as error:
        read_sound(path, seconds=0.2)
    assert "\n" not in str(error.value) and str(error.value).count(str(path)) == 1


def test_a_folder_is_no_sound(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a sound: "):
        read_sound(tmp_path)


def test_a_file_cut_off_gives_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(300, 1.0))
    path.write_bytes(path.read_bytes()[: 4 * 8000])
    samples = read_samples(path, 16_000, 1.0, 0.0)
    assert np.abs(samples[:7000]).max() > 0.4 and not np.any(samples[8000:])
