"""mmjax describe: captions of images, and answers to questions about them."""

import argparse
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.commands.input_reading import check_out, files_in, read_all, write_image
from mmjax.commands.loading import load_able
from mmjax.config import Config
from mmjax.export import Captioner, QuestionAnswerer
from mmjax.sample.chunks import CHUNK
from mmjax.sample.overlay import draw_attention_maps
from mmjax.sample.postprocess import to_uint8
from mmjax.types import UserError

HELP = "describe images, or answer a question about them; a line for each"
MAX_MAPS = 64  # images of --maps
WRITING = ("beams", "length_penalty", "top_p", "temperature")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="a model folder or a workdir")
    parser.add_argument(
        "--image",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="FILE",
        help="images (clips or sounds, for a model trained on those), or folders, which stand for all in them",
    )
    parser.add_argument("--question", metavar="TEXT", help="answer it, rather than describe")
    parser.add_argument("--beams", type=int, metavar="N", help="search with so many texts at a time")
    parser.add_argument(
        "--length-penalty", type=float, metavar="X", help="of the search; larger ones favor longer texts"
    )
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw at random from the likeliest words of this probability together"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="of what is drawn; lower is less varied")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: the first image's; the next count on")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="OUT.png",
        help="also draw, for each word, the image with where the model looked as it wrote it",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object for each image")


def run(arguments: argparse.Namespace) -> int:
    check_out("--maps", arguments.maps)
    if arguments.question is not None and not arguments.question.strip():
        raise UserError('--question: is empty; ask something, as in --question "what color is the circle?"')
    able: tuple[type, str] = (Captioner, "describes images")
    if arguments.question is not None:
        able = (QuestionAnswerer, "answers questions")
    model = load_able(arguments, *able)
    config = model.config
    named = [path for path in arguments.image if not path.is_dir()]
    paths = [file for path in arguments.image for file in (files_in(path, config) if path.is_dir() else [path])]
    if arguments.maps and len(paths) > MAX_MAPS:
        raise UserError(f"--maps: is for at most {MAX_MAPS} images, not {len(paths):,}")
    if arguments.maps and len(config.data.image_shape) == 4:
        raise UserError("--maps: this model sees clips; only what was looked at in images and sounds can be drawn")
    chosen = {name: getattr(arguments, name) for name in WRITING if getattr(arguments, name) is not None}
    shown, count = [], 0
    for files, images in _chunks(paths, set(named), config):
        texts = _describe(model, images, arguments.question, arguments.seed + count, chosen)
        count += len(files)
        for file, text in zip(files, texts, strict=True):
            print(_line(file, text, arguments, alone=len(paths) == 1), flush=True)
        if arguments.maps:
            shown.append((files, images, texts))
    if not count:
        raise UserError(f"--image: none of {len(paths):,} files can be read")
    if arguments.maps:
        _draw(model, shown, arguments.question, arguments.maps)
    return 0


def _chunks(paths: list[Path], named: set[Path], config: Config) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Files with what is seen of them. Those of a folder that cannot be read are left out, and a warning says so."""
    read = zip(paths, read_all(paths, config), strict=True)

    def good() -> Iterator[tuple[Path, np.ndarray]]:
        for path, found in read:
            if not isinstance(found, UserError):
                yield path, found
            elif path in named:
                raise UserError(f"--image {found}")
            else:
                logger.warning("left out: %s", found)

    rows = good()
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield [path for path, _ in chunk], np.stack([image for _, image in chunk])


def _describe(model: Any, images: np.ndarray, question: str | None, seed: int, chosen: dict[str, Any]) -> list[str]:
    if question is None:
        return model.caption(images, seed, **chosen)
    return model.answer(images, [question] * len(images), seed, **chosen)


def _line(file: Path, text: str, arguments: argparse.Namespace, alone: bool) -> str:
    if arguments.json:
        asked = {} if arguments.question is None else {"question": arguments.question}
        return json.dumps({"image": str(file), **asked, "answer" if asked else "caption": text}, ensure_ascii=False)
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return line if alone else f"{file}: {line}"


def _draw(model: Any, shown: list[tuple[list[Path], np.ndarray, list[str]]], question: str | None, out: Path) -> None:
    titles, rows, words, maps = [], [], [], []
    for files, images, texts in shown:
        looked = model.attention_maps(images, texts, None if question is None else [question] * len(texts))
        titles += [file.name for file in files]
        rows += list(np.broadcast_to(to_uint8(images), (*images.shape[:-1], 3)))
        words += [found.words for found in looked]
        maps += [found.maps for found in looked]
    write_image("--maps", out, draw_attention_maps(rows, titles, words, maps))
