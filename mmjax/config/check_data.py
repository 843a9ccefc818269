"""Sizes and combinations of the fields of a config's data, and of each part of a mixture, that no type can rule out."""

from collections.abc import Mapping
from typing import Any

from mmjax.config.data_fields import DataConfig
from mmjax.types import UserError

EXAMPLE = {"coco": {"source": "coco_folder", "weight": 3.0}}
LEAST_WEIGHT = 1000  # a part has at least the whole of all weights divided by this


def check_data(data: DataConfig, name: str = "data") -> None:
    """Raises UserError for the first that is impossible; `name` is that of the data in its config."""
    above_0(
        {
            f"{name}.size": data.size,
            f"{name}.scenes.examples": data.scenes.examples,
            f"{name}.shuffle_buffer": data.shuffle_buffer,
            f"{name}.frames": data.frames,
            f"{name}.frame_rate": data.frame_rate,
            f"{name}.audio.bins": data.audio.bins,
        }
    )
    not_below_0({f"{name}.evaluation_examples": data.evaluation_examples, f"{name}.answers": data.num_answer_classes})
    need(0 <= data.max_corrupt_fraction <= 1, f"{name}.max_corrupt_fraction: must be from 0 to 1")
    need(data.resize >= data.size, f"{name}.resize: {data.resize} is smaller than {name}.size, {data.size}")
    if data.source == "mixture":
        _check_mixture(data, name)
        return
    need(not data.mixture, f"{name}.mixture: is for a mixture, and {name}.source is {data.source}")
    if data.source == "scenes":
        _check_scenes(data, name)
        return
    need(
        bool(data.root), f"{name}.root: {data.source} needs the folder of the data set, as in --config.{name}.root=DIR"
    )
    held = "sounds" if data.source == "audio_folder" else "images"
    need(
        data.frames == 1 or data.source == "clips_folder",
        f"{name}.frames: {data.source} holds {held}; clips of {data.frames} frames come from clips_folder or scenes",
    )
    if data.source == "audio_folder":
        _check_audio(data, name)
    if data.source == "vqa":
        for field in ("questions", "evaluation_questions"):
            need(
                bool(getattr(data, field)),
                f"{name}.{field}: vqa needs a file of questions below {name}.root, as in "
                f"--config.{name}.{field}=annotations/v2_OpenEnded_mscoco_train2014_questions.json",
            )


def _check_scenes(data: DataConfig, name: str) -> None:
    need(not data.flip, f"{name}.flip: a mirrored scene makes its caption false (left of, right of); set it to false")
    need(
        (data.train_split, data.evaluation_split) == ("train", "validation"),
        f"{name}.train_split, {name}.evaluation_split: scenes have no splits but train and validation",
    )
    need(
        not data.scenes.questions or data.frames == 1,
        f"{name}.scenes.questions: are asked about images, not clips of {data.frames} frames; set {name}.frames to 1",
    )
    need(data.size >= 32, f"{name}.size: scenes are drawn from 32 pixels up, not {data.size}")


def _check_audio(data: DataConfig, name: str) -> None:
    audio = data.audio
    need(audio.rate >= 1000, f"{name}.audio.rate: must be at least 1000 samples a second, not {audio.rate}")
    need(audio.rate % 100 == 0, f"{name}.audio.rate: must be whole in 10 ms, as 16000 is, not {audio.rate}")
    need(0.1 <= audio.seconds <= 600, f"{name}.audio.seconds: must be from 0.1 to 600, not {audio.seconds:g}")
    need(not data.flip, f"{name}.flip: sounds are not mirrored; set it to false")


def _check_mixture(data: DataConfig, name: str) -> None:
    need(bool(data.mixture), f"{name}.mixture: a mixture needs at least one, as in {EXAMPLE}")
    for key, part in data.mixture.items():
        at = f"{name}.mixture.{key}"
        need(
            part.source != "mixture",
            f"{at}: is a mixture itself; name its parts beside the others, in {name}.mixture",
        )
        above_0({f"{at}.weight": part.weight})
        for field in ("size", "frames", "frame_rate"):
            ours, theirs = getattr(data, field), getattr(part, field)
            need(ours == theirs, f"{at}.{field}: must be that of all parts, {name}.{field}={ours}, not {theirs}")
        need(
            (part.source == "audio_folder") == (next(iter(data.mixture.values())).source == "audio_folder"),
            f"{at}.source: {part.source} beside sounds and images; a mixture is of either",
        )
        need(
            part.source != "audio_folder" or part.audio == data.audio,
            f"{at}.audio: must be that of all parts, {name}.audio",
        )
        check_data(part, at)
    whole = sum(part.weight for part in data.mixture.values())
    for key, part in data.mixture.items():
        need(
            part.weight * LEAST_WEIGHT >= whole,
            f"{name}.mixture.{key}.weight: {part.weight:g} is less than 1 in {LEAST_WEIGHT:,} of all, {whole:g}; "
            "leave the part out, or raise it",
        )


def above_0(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        need(value > 0, f"{name}: must be above 0, not {value}")


def not_below_0(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        need(value >= 0, f"{name}: must not be below 0, not {value}")


def need(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
