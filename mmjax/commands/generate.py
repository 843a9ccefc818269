"""mmjax generate: images and clips from text."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

import mmjax
from mmjax.commands.input_reading import (
    WRITTEN,
    check_sheet,
    load_able,
    naming,
    read_text_lines,
    write_image,
    write_out,
)
from mmjax.config import Config, DataConfig
from mmjax.data import read_clip, read_image, read_mask
from mmjax.export import DirectImageGenerator, ImageGenerator
from mmjax.files import check_writable
from mmjax.models.masked_generator import REFERENCE
from mmjax.sample.filters import denoise, sharpen
from mmjax.sample.postprocess import sheet
from mmjax.sample.video import to_gif, to_mp4
from mmjax.terminal import printable
from mmjax.types import UserError

COLUMNS = 8
IMAGES, CLIPS = tuple(WRITTEN), (".mp4", ".gif")
HELP = "Generate images or clips from prompts, in one file or one file each."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a model folder or a workdir")
    add("--prompt", nargs="+", action="extend", default=[], metavar="TEXT", help="one or more prompts")
    add("--prompts", type=Path, metavar="FILE", help="text file with a prompt per line; blank lines are skipped")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"PNG, JPEG or WebP with all images, or mp4 or GIF with all clips, up to {COLUMNS} in a row; with {{}} in "
        "the name one file each, numbered from 0",
    )
    add("--seed", type=int, help="seed of the first prompt; the others follow (default: 0)")
    add(
        "--guidance",
        type=float,
        help="scale of classifier-free guidance: 0 ignores the text, 1 is no guidance (default: the config's)",
    )
    add("--steps", type=int, help="sampling steps (default: the config's)")
    add("--order", choices=("confidence", "halton"), help="order in which visual tokens are unmasked")
    add("--temperature", type=float, help="of visual tokens; lower is less varied")
    add("--refinement-steps", type=int, metavar="N", help="further steps that resample some tokens given the others")
    add(
        "--lora",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE[=WEIGHT]",
        help="LoRAs of mmjax export --lora=alone to add to the model, each times its weight (default: 1)",
    )
    add("--top-k", type=int, metavar="K", help="sample from the K likeliest codes; 0: from all")
    _add_inputs(parser)
    add("--sharpen", type=float, default=0.0, metavar="AMOUNT", help="unsharp masking, 0 to 5")
    add("--denoise", type=float, default=0.0, metavar="STRENGTH", help="remove noise of this standard deviation")


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds the images and clips to start from."""
    add = parser.add_argument
    add(
        "--reference",
        type=Path,
        metavar="IMAGE",
        help="reference image: the start of a direct generator, or, resized and center-cropped, the condition (image "
        "or clip) of a model with a reference tokenizer",
    )
    add(
        "--enlarge",
        type=Path,
        metavar="DIR",
        help="enlarge the result with a super-resolution model, a model folder or workdir whose references have this "
        "model's size; uses the same prompts and seeds, and the sampling of its config",
    )
    add(
        "--image",
        type=Path,
        metavar="IMAGE",
        help="image to edit with --mask or --variation, or the first frame of a clip",
    )
    add("--mask", type=Path, metavar="IMAGE", help="mask of the size of --image: white is resampled, black is kept")
    add(
        "--variation",
        type=float,
        metavar="FRACTION",
        help="resample this fraction of --image at random places, above 0 to 1",
    )
    add("--clip", type=Path, metavar="FILE", help="clip to continue from its last frames")
    add(
        "--clip-frames",
        type=int,
        metavar="N",
        help="number of frames of --clip to continue from (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    if out.suffix.lower() not in IMAGES + CLIPS:
        raise UserError(f"--out {out}: must end in .png, .jpg or .webp, for clips in .mp4 or .gif")
    prompts = read_prompts(arguments.prompt, arguments.prompts)
    _check_end(arguments, len(prompts))
    loras = read_loras(arguments.lora)
    model = load_able(arguments, (DirectImageGenerator, ImageGenerator), "draws from text", loras)
    config = model.config.data
    larger = _enlarging(arguments, config) if arguments.enlarge else None
    endings = CLIPS if config.frames > 1 else IMAGES
    if out.suffix.lower() not in endings:
        what = "clips" if config.frames > 1 else "images"
        raise UserError(f"--out {out}: this model draws {what}; the name must end in {', '.join(endings)}")
    if "{}" not in out.name:
        size = (larger or model).config.data.size
        check_sheet("--out", out, (size, size), len(prompts), COLUMNS)
    given: dict[str, Any] = {
        name: np.repeat(value[None], len(prompts), axis=0) for name, value in _given(arguments, model.config).items()
    }
    names = ("guidance", "variation", "steps", "order", "temperature", "top_k", "refinement_steps")
    chosen = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    seed = [] if arguments.seed is None or larger else ["seed"]
    if isinstance(model, DirectImageGenerator) and (found := [*chosen, *seed, *(given.keys() - {"reference"})]):
        raise UserError(
            f"--{found[0].replace('_', '-')}: is for models that sample; this is a {model.config.model.kind}"
        )
    images = model.generate(prompts, seed=arguments.seed or 0, **given, **chosen)
    if larger is not None:
        images = larger.generate(prompts, seed=arguments.seed or 0, reference=images)
    images = sharpen(denoise(images, arguments.denoise), arguments.sharpen)
    if "{}" in out.name:
        for i, image in enumerate(images):
            _write(_numbered(out, i), image, config.frame_rate)
    else:
        _write(out, sheet(images, COLUMNS), config.frame_rate)
    print(printable(f"{len(images)} {'clips' if config.frames > 1 else 'images'}: {out}"))
    return 0


def _numbered(out: Path, number: int) -> Path:
    return out.with_name(out.name.replace("{}", str(number)))


def _check_end(arguments: argparse.Namespace, count: int) -> None:
    """Tries with a blank image what comes after those of the prompts: changing them, and writing them."""
    blank = np.zeros((1, 8, 8, 3), np.uint8)
    sharpen(denoise(blank, arguments.denoise), arguments.sharpen)
    if arguments.out.suffix.lower() == ".mp4":
        to_mp4(blank, 8.0)
    with naming("--out"):
        check_writable(_numbered(arguments.out, count - 1))


def _enlarging(arguments: argparse.Namespace, config: DataConfig) -> ImageGenerator:
    """Loads the super-resolution model and checks that its references match `config`."""
    folder: Path = arguments.enlarge
    larger = mmjax.load(folder, plugins=arguments.plugins)
    reference = larger.config.component(REFERENCE)
    if not isinstance(larger, ImageGenerator) or reference is None:
        raise UserError(f"--enlarge {folder}: is no super-resolution model: it has no reference_tokenizer")
    expected, actual = (
        f"{data.size} x {data.size} pixels" + (f" and {data.frames} frames" if data.frames > 1 else "")
        for data in (reference.data, config)
    )
    if expected != actual:
        raise UserError(f"--enlarge {folder}: its references are of {expected}, and --model draws {actual}")
    return larger


def _given(arguments: argparse.Namespace, config: Config) -> dict[str, Any]:
    """The images of the command line, each without a batch axis."""
    data = config.data
    given: dict[str, Any] = {}
    if arguments.mask and not arguments.image:
        raise UserError("--mask: needs --image, the image to edit")
    if arguments.clip_frames is not None and not arguments.clip:
        raise UserError("--clip-frames: goes with --clip, the clip to continue")
    if arguments.clip and arguments.image:
        raise UserError("--clip, --image: give one of them")
    reference = config.component(REFERENCE)
    if arguments.reference and reference is not None:
        size, frames = reference.data.size, reference.data.frames
        given["reference"] = (
            read_clip(arguments.reference, size, size, frames, data.frame_rate)
            if frames > 1
            else read_image(arguments.reference, size, size)
        )
    elif arguments.reference:
        given["reference"] = read_image(arguments.reference, data.size, data.resize)
    if arguments.image:
        given["image"] = read_image(arguments.image, data.size, data.size)
    if arguments.mask:
        given["mask"] = read_mask(arguments.mask, arguments.image, data.size)
    if data.frames > 1:  # an image is the first frame of a clip
        given = {name: value if name == "reference" else value[None] for name, value in given.items()}
    if arguments.clip:
        if data.frames == 1:
            raise UserError("--clip: this model draws images, not clips")
        frames = 1 if arguments.clip_frames is None else arguments.clip_frames
        if not 1 <= frames < data.frames:
            raise UserError(f"--clip-frames {frames}: must be from 1 to {data.frames - 1}")
        given["image"] = read_clip(arguments.clip, data.size, data.size, frames, data.frame_rate)
    return given


def _write(path: Path, drawn: UInt8[np.ndarray, "*f y x 3"], frame_rate: float) -> None:
    """Writes an image or clip in the format of the file name."""
    if path.suffix.lower() not in CLIPS:
        return write_image("--out", path, drawn)
    write_out("--out", path, (to_mp4 if path.suffix.lower() == ".mp4" else to_gif)(drawn, frame_rate))


def read_prompts(prompts: list[str], path: Path | None) -> list[str]:
    """Returns the prompts of the command line and a file, without blank lines.

    Raises:
        UserError: if there is none, or the file cannot be read as text.
    """
    lines = [prompt.strip() for prompt in prompts if prompt.strip()]
    lines += read_text_lines("--prompts", path) if path else []
    if not lines:
        raise UserError(
            'no prompt: give --prompt "a red circle left of a blue square", or --prompts FILE with one a line'
        )
    return lines


def read_loras(given: list[str]) -> dict[str | Path, float]:
    """Parses FILE or FILE=WEIGHT; a path may have an equals sign of its own.

    Raises:
        UserError: for a file that is given twice, or a weight that is no finite number.
    """
    loras: dict[str | Path, float] = {}
    for text in given:
        path, equals, weight = text.rpartition("=")
        if not equals or text.endswith(".safetensors"):
            path, weight = text, "1"
        if path in loras:
            raise UserError(f"--lora {path}: is given twice; give it one weight")
        try:
            loras[path] = float(weight)
        except ValueError:
            raise UserError(f"--lora {text}: {weight!r} is no weight; give a number, as in {path}=0.8") from None
        if not math.isfinite(loras[path]):
            raise UserError(f"--lora {text}: the weight must be finite, as in {path}=0.8")
    return loras
