"""mmjax generate: pictures from text."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import mmjax
from mmjax.data import read_picture
from mmjax.sample.postprocess import sheet
from mmjax.types import UserError

COLUMNS = 8
HELP = "draw pictures from prompts, all in one file, or a file each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="a model folder or a workdir")
    parser.add_argument("--prompt", nargs="+", action="extend", default=[], metavar="TEXT", help="one or more prompts")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a text file with a prompt a line; blank lines are left out"
    )
    parser.add_argument("--reference", type=Path, metavar="PICTURE", help="a picture to start from")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"a PNG, JPEG or WebP with all pictures, up to {COLUMNS} in a row; with {{}} in its name a file for each, "
        "numbered from 0",
    )
    parser.add_argument("--seed", type=int, default=0, help="for models that draw at random")
    parser.add_argument(
        "--guidance", type=float, default=3.0, help="how closely to follow the text, for models that can be guided"
    )


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--out {out}: must end in .png, .jpg or .webp")
    prompts = read_prompts(arguments.prompt, arguments.prompts)
    model = mmjax.load(arguments.model)
    reference = None
    if arguments.reference:
        picture = read_picture(arguments.reference, model.config.data.size, model.config.data.resize)
        reference = np.repeat(picture[None], len(prompts), axis=0)
    pictures = model.generate(prompts, seed=arguments.seed, guidance=arguments.guidance, reference=reference)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if "{}" in out.name:
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(out.with_name(out.name.replace("{}", str(i))))
        else:
            Image.fromarray(sheet(pictures, COLUMNS)).save(out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    print(f"{len(pictures)} pictures: {out}")
    return 0


def read_prompts(prompts: list[str], path: Path | None) -> list[str]:
    """Prompts of the command line and of a file, blank lines left out.

    Raises:
        UserError: where no prompt is left, or the file cannot be read as text.
    """
    lines = list(prompts)
    if path:
        try:
            lines += path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts {path}: cannot be read as UTF-8 text: {error}") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise UserError(
            'no prompt: give --prompt "a red circle left of a blue square", or --prompts FILE with one a line'
        )
    return lines
