"""mmjax describe: captions of images, and answers to questions about them."""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.commands.input_reading import (
    check_out,
    check_sheet,
    files_in,
    inputs_of,
    load_able,
    read_chunks,
    write_image,
)
from mmjax.engine.memory import explained, halved
from mmjax.export import Captioner, QuestionAnswerer
from mmjax.sample.overlay import draw_attention_maps, largest_sheet
from mmjax.sample.postprocess import to_uint8
from mmjax.terminal import json_line, printable
from mmjax.types import UserError

HELP = "Caption images, or answer a question about them, with one line per image."
MAX_MAPS = 64  # images of --maps
DECODING = ("beams", "length_penalty", "top_p", "temperature")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a model folder or a workdir")
    add(
        "--image",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="images (or clips or sounds, if the model was trained on them), or folders of them",
    )
    add("--question", metavar="TEXT", help="answer this question instead of captioning")
    add("--beams", type=int, metavar="N", help="number of beams of beam search; 1: greedy")
    add("--length-penalty", type=float, metavar="X", help="of beam search; larger values favor longer texts")
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="nucleus sampling from the likeliest tokens with this total probability",
    )
    add("--temperature", type=float, metavar="T", help="of sampling; lower is less varied")
    add("--seed", type=int, help="of sampling: seed of the first image; the others follow (default: 0)")
    add("--maps", type=Path, metavar="OUT.png", help="also write the attention map of each word over its image")
    add("--json", action="store_true", help="print a JSON object per image")


def run(arguments: argparse.Namespace) -> int:
    check_out("--maps", arguments.maps)
    if arguments.question is not None and not arguments.question.strip():
        raise UserError('--question: is empty; ask something, as in --question "what color is the circle?"')
    if arguments.question is None:
        model = load_able(arguments, Captioner, "describes images")
    else:
        model = load_able(arguments, QuestionAnswerer, "answers questions")
    config, inputs = model.config, inputs_of(model)
    named = {path for path in arguments.image if not path.is_dir()}
    paths = [file for path in arguments.image for file in (files_in(path, inputs.endings) if path.is_dir() else [path])]
    if arguments.maps and len(paths) > MAX_MAPS:
        raise UserError(f"--maps: is for at most {MAX_MAPS} images, not {len(paths):,}")
    if arguments.maps and len(config.data.image_shape) == 4:
        raise UserError("--maps: needs a model of images or sounds, and this one is of clips")
    if arguments.maps:
        height, width, _ = config.data.image_shape
        check_sheet("--maps", arguments.maps, largest_sheet((height, width), len(paths), config.text.length))

    def unreadable(path: Path, error: UserError) -> None:
        if path in named:
            raise UserError(f"--image {error}")
        logger.warning("left out: %s", error)

    chosen = {name: getattr(arguments, name) for name in DECODING if getattr(arguments, name) is not None}
    if arguments.seed is not None and not (arguments.top_p or config.text_decoding.top_p):
        raise UserError("--seed: has no effect without --top-p, which draws at random")
    described, count, seed = [], 0, arguments.seed or 0
    for files, images in read_chunks(paths, inputs, unreadable):
        with explained(lambda: halved("--beams", chosen.get("beams", config.text_decoding.beams))):
            if arguments.question is None:
                texts = model.caption(images, seed + count, **chosen)
            else:
                texts = model.answer(images, [arguments.question] * len(images), seed + count, **chosen)
        count += len(files)
        for file, text in zip(files, texts, strict=True):
            print(_line(file, text, arguments, alone=len(paths) == 1), flush=True)
        if arguments.maps:
            described.append((files, images, texts))
    if not count:
        raise UserError(f"--image: none of {len(paths):,} files can be read")
    if arguments.maps:
        _draw(model, described, arguments.question, arguments.maps)
    return 0


def _line(file: Path, text: str, arguments: argparse.Namespace, alone: bool) -> str:
    if arguments.json:
        question = {} if arguments.question is None else {"question": arguments.question}
        row = {"image": str(file), **question, "answer" if question else "caption": text}
        return json_line(row)
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if alone else f"{printable(str(file))}: {line}"


def _draw(
    model: Any, described: list[tuple[list[Path], np.ndarray, list[str]]], question: str | None, out: Path
) -> None:
    titles, rows, words, maps = [], [], [], []
    for files, images, texts in described:
        attention = model.attention_maps(images, texts, None if question is None else [question] * len(texts))
        titles += [file.name for file in files]
        rows += list(np.broadcast_to(to_uint8(images), (*images.shape[:-1], 3)))
        words += [each.words for each in attention]
        maps += [each.maps for each in attention]
    write_image("--maps", out, draw_attention_maps(rows, titles, words, maps))
