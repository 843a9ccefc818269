"""mmjax inspect: what a folder holds."""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmjax import models, pretrained
from mmjax.config.pretrained_fields import VISION_ENCODER
from mmjax.export.load import ABILITIES
from mmjax.export.pretrained_models import CLASSES, is_pretrained, tokenizer_of
from mmjax.files import read_file
from mmjax.models.pretrained_encoder import encodes_patches
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.pretrained.images import KERNELS, read_image_settings
from mmjax.pretrained.pooling import read_pooling
from mmjax.terminal import printable
from mmjax.train.workdir import read_config
from mmjax.types import UserError

HELP = "Print what a folder holds: family, sizes, parameters, tokenizer, uses, license."
MAX_README = 1 << 20  # bytes
_FRONT_MATTER = re.compile(r"\A---\n(.*?)^---", re.DOTALL | re.MULTILINE)
_LICENSES = re.compile(r"^license_name: *(\S+)", re.MULTILINE), re.compile(r"^license:[\s-]*(\S+)", re.MULTILINE)
METHODS = (
    "embed_text",
    "embed_image",
    "classify",
    "encode_text",
    "encode_image",
    "encode",
    "decode",
)  # of pretrained models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a folder in Hugging Face's layout, a model folder or a workdir")


def run(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    rows = _pretrained(folder, arguments.plugins) if is_pretrained(folder) else _own(folder, arguments.plugins)
    for name, text in rows:
        print(f"{name:<12}{printable(text)}")
    return 0


def _own(folder: Path, plugins: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    config = read_config(folder, plugins=plugins)
    yield "model", f"{config.model.kind} of mmjax, {config.name or 'without a name'}"
    abilities = sorted(models.find(config).abilities(config))
    yield "use", ", ".join(ABILITIES[name].__name__ for name in abilities) or "none by itself"
    yield "license", license_of(folder)


def _pretrained(folder: Path, plugins: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    checkpoint = pretrained.open_checkpoint(folder, plugins)
    spec, folder = checkpoint.spec, checkpoint.folder
    named = next(f"{name} {checkpoint.settings[name]}" for name in pretrained.KINDS if name in checkpoint.settings)
    yield "family", f"{spec.name} ({named})"
    yield from sizes(checkpoint.config)
    tensors = checkpoint.tensors.values()
    count, size = sum(math.prod(each.shape) for each in tensors), sum(each.stop - each.start for each in tensors)
    dtypes = "/".join(sorted({each.dtype for each in tensors}))
    yield (
        "weights",
        f"{count:,} parameters, {size / 1e6:,.1f} MB, {dtypes}, in {len({t.path for t in tensors})} file(s)",
    )
    if "text" in spec.encodes:
        yield "tokenizer", told(lambda: _tokenizer(checkpoint))
        yield "pooling", told(lambda: _pooling(folder))
    if "image" in spec.encodes:
        yield "images", told(lambda: _images(folder))
    if "latents" in spec.encodes:
        config = checkpoint.config
        yield "latents", f"{config.channels} channels for {config.stride} x {config.stride} pixels, {config.scaling()}"
    able = CLASSES[spec.encodes]
    yield "use", f"mmjax.load gives a {able.__name__}: {', '.join(each for each in METHODS if hasattr(able, each))}"
    fields = {"text": TEXT_ENCODER, "image": VISION_ENCODER}
    kinds = [kind for kind in spec.encodes if kind == "text" or encodes_patches(spec, checkpoint.config)]
    taken = [f"--config.components.{fields[kind]}={folder}" for kind in kinds if kind in fields]
    yield "component", ", ".join(taken) or "none"
    yield "license", license_of(folder)


def told(describe: Callable[[], str]) -> str:
    """What a function says, or why it cannot."""
    try:
        return describe()
    except UserError as error:
        return f"none: {error}"


def sizes(config: Any) -> Iterator[tuple[str, str]]:
    """Yields the fields of a config, of each of its sections a line."""
    sections = {name: value for name, value in vars(config).items() if dataclasses.is_dataclass(value)}
    plain = {name: value for name, value in vars(config).items() if name not in sections}
    for name, values in {"config": plain, **{name: vars(each) for name, each in sections.items()}}.items():
        shown = {key: f"{len(value)} classes" if key == "id2label" else value for key, value in values.items()}
        yield name.removesuffix("_config"), ", ".join(f"{key}={value}" for key, value in shown.items())


def _tokenizer(checkpoint: pretrained.Checkpoint) -> str:
    tokenizer = tokenizer_of(checkpoint)
    longest = f", texts of up to {tokenizer.longest} tokens" if tokenizer.longest else ""
    return f"tokenizer.json, {tokenizer.size:,} ids, padding {tokenizer.padding}, end {tokenizer.end}{longest}"


def _pooling(folder: Path) -> str:
    pooling = read_pooling(folder)
    if pooling is None:
        return "as in the family"
    longest = f", texts of up to {pooling.longest} tokens" if pooling.longest else ""
    return (
        f"{pooling.mode} of the tokens{', of length 1' if pooling.normalize else ''}{longest} (sentence-transformers)"
    )


def _images(folder: Path) -> str:
    settings = read_image_settings(folder)
    parts = []
    if settings.size:
        side = "shorter side " if len(settings.size) == 1 else ""
        parts.append(
            f"resized to {side}{' x '.join(map(str, settings.size))} ({KERNELS[settings.kernel].name.lower()})"
        )
    if settings.crop:
        parts.append(f"cropped to {settings.crop[0]} x {settings.crop[1]}")
    mean, deviation = (", ".join(f"{number:.4g}" for number in each) for each in (settings.mean, settings.deviation))
    return "; ".join([*parts, f"mean {mean}", f"deviation {deviation}"])


def license_of(folder: Path) -> str:
    """The license that the model card names."""
    try:
        card = read_file(folder / "README.md", MAX_README).decode("utf-8", "replace")
    except (OSError, UserError):
        return "not told: there is no README.md"
    front = _FRONT_MATTER.match(card.replace("\r\n", "\n"))
    found = [match[1] for pattern in _LICENSES if (match := pattern.search(front[1] if front else ""))]
    return f"{found[0]}, says README.md" if found else "not told in README.md"
