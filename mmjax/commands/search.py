"""mmjax search: nearest images or texts to texts and images."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmjax.commands.index import Index, Stamp, index_cache_key, nearest, update
from mmjax.commands.input_reading import (
    Inputs,
    check_out,
    check_sheet,
    files_in,
    inputs_of,
    load_able,
    read_chunks,
    read_text_lines,
    write_image,
)
from mmjax.export import DualEncoder, PretrainedImageEncoder, PretrainedModel
from mmjax.progress import progress_bar
from mmjax.sample.chunks import CHUNK
from mmjax.sample.postprocess import sheet, to_uint8
from mmjax.terminal import json_line, printable
from mmjax.types import UserError

HELP = "Search the images of a folder, or the lines of a text file, by text or image."
COLUMNS = 8
INDEX = "mmjax-index"
Embedded = Iterator[tuple[list[str], Float32[np.ndarray, "m e"]]]

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a model folder, a workdir, or a folder in Hugging Face's layout")
    add(
        "--index",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="images of a folder and its subfolders, or lines of FILE.txt, to search",
    )
    add("--text", nargs="+", action="extend", default=[], help="query text")
    add(
        "--image",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="query image; several texts and images are averaged",
    )
    add(
        "--weights",
        type=float,
        nargs="+",
        metavar="W",
        help="weight of each --text, then each --image, in the average; below 0: unlike it (default: 1)",
    )
    add("--top", type=int, default=10, metavar="K", help="number of results (default: 10)")
    add("--out", type=Path, metavar="SHEET.png", help="also write the resulting images, nearest first")
    add("--json", action="store_true", help="print a JSON object per result")
    add(
        "--keep",
        type=Path,
        metavar="DIR",
        help=f"cache of the embeddings (default: .{INDEX} in the folder, .FILE.txt.{INDEX} beside a text file)",
    )
    add("--rebuild", action="store_true", help="embed everything again, as after a change of the model")


def run(arguments: argparse.Namespace) -> int:
    check_out("--out", arguments.out)
    source: Path = arguments.index
    if not arguments.text and not arguments.image:
        raise UserError('--text: what to find? Give --text "a red circle left of a blue square", or --image FILE')
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top}: must be at least 1")
    texts = None if source.is_dir() else _lines(source)
    if texts is not None and arguments.out:
        raise UserError(f"--out: draws images, and {source} has texts; leave it out")
    model = load_able(arguments, (DualEncoder, PretrainedModel), "embeds images and texts")
    _check_encodes(arguments, model, texts is not None)
    if arguments.out:
        _check_sheet(arguments, inputs_of(model))
    query = _query(model, arguments.text, arguments.image, arguments.weights)
    cache = arguments.keep or (source / f".{INDEX}" if texts is None else source.with_name(f".{source.name}.{INDEX}"))
    index = _indexed(model, source, texts, cache, arguments.rebuild, len(query))
    places, cosines = nearest(index, query, arguments.top)
    results = [index.names[place] if texts is not None else str(source / index.names[place]) for place in places]
    for name, cosine in zip(results, cosines.tolist(), strict=True):
        row = {"similarity": round(cosine, 6), "image" if texts is None else "text": name}
        print(json_line(row) if arguments.json else f"{cosine:.4f}  {printable(name)}")
    if arguments.out:
        chunks = read_chunks(map(Path, results), inputs_of(model), lambda path, error: None)
        seen = np.concatenate([images for _, images in chunks])
        images = seen if seen.dtype == np.uint8 else to_uint8(seen)
        write_image("--out", arguments.out, sheet(np.broadcast_to(images, (*images.shape[:-1], 3)), COLUMNS))
    return 0


def _check_encodes(arguments: argparse.Namespace, model: Any, lines: bool) -> None:
    """Raises UserError for a pretrained model of texts alone or of images alone that is to embed the others."""
    if not isinstance(model, PretrainedModel):
        return
    spec = model.checkpoint.spec
    needed = {"text": bool(arguments.text) or lines, "image": bool(arguments.image) or not lines}
    for kind, other in (("text", "image"), ("image", "text")):
        if needed[kind] and kind not in spec.encodes:
            raise UserError(
                f"--model {arguments.model}: a pretrained {spec.name}, which encodes no {kind}s; search {other}s by "
                f"{other}s, or name a model of both, such as CLIP"
            )
    if needed["image"] and not inputs_of(model).shape:
        raise UserError(f"--model {arguments.model}: its images have several sizes, and cannot be searched")


def _check_sheet(arguments: argparse.Namespace, inputs: Inputs) -> None:
    if len(inputs.shape) != 3:
        raise UserError("--out: draws images, and this model sees clips; leave it out")
    height, width, _ = inputs.shape
    count = min(arguments.top, len(files_in(arguments.index, inputs.endings)))
    check_sheet("--out", arguments.out, (height, width), count, COLUMNS)


def _embed_images(model: Any, images: np.ndarray) -> Float32[np.ndarray, "n e"]:
    """Embeddings of inputs as inputs_of(model).read makes them."""
    embedded: Float32[np.ndarray, "n e"] = (
        model.embed_resized(images) if isinstance(model, PretrainedImageEncoder) else model.embed_image(images)
    )
    return embedded


def _lines(path: Path) -> list[str]:
    if path.suffix.lower() != ".txt":
        raise UserError(f"--index {path}: must be a folder of images, or a text file FILE.txt with a text a line")
    lines = read_text_lines("--index", path)
    if not lines:
        raise UserError(f"--index {path}: holds no text; it needs one a line")
    return list(dict.fromkeys(lines))


def _query(model: Any, texts: list[str], images: list[Path], weights: list[float] | None) -> Float32[np.ndarray, " e"]:
    """The weighted mean of the query embeddings, of length 1."""
    if any(not text.strip() for text in texts):
        raise UserError("--text: is empty; say what to find")
    if weights is not None and len(weights) != len(texts) + len(images):
        raise UserError(f"--weights: needs one for each --text and --image, {len(texts) + len(images)} together")
    inputs = []
    for path in images:
        try:
            inputs.append(inputs_of(model).read(path))
        except UserError as error:
            raise UserError(f"--image {error}") from None
    parts = [model.embed_text(texts)] if texts else []
    parts += [_embed_images(model, np.stack(inputs))] if inputs else []
    embeddings = np.concatenate(parts)
    mean = np.asarray(weights or [1.0] * len(embeddings), np.float32) @ embeddings
    length = np.linalg.norm(mean)
    if not (np.isfinite(length) and length > 1e-6):
        raise UserError("--weights: nothing is left of what to find; give other weights")
    query: np.ndarray = (mean / length).astype(np.float32)
    return query


def _indexed(model: Any, source: Path, texts: list[str] | None, cache: Path, rebuild: bool, width: int) -> Index:
    """The up-to-date index of the images or texts, cached in a folder."""
    if texts is None:
        files = files_in(source, inputs_of(model).endings)
        wanted = {file.relative_to(source).as_posix(): stamp for file in files if (stamp := _stamp(file))}
    else:
        wanted = dict.fromkeys(texts, (0, 0))

    def embed(names: Sequence[str]) -> Embedded:
        with progress_bar(None, "embedding", len(names), unit="image" if texts is None else "text") as bar:
            yield from _of_images(model, source, names, bar) if texts is None else _of_texts(model, names, bar)

    key = index_cache_key(model, "images" if texts is None else "texts")
    index = update(cache, key, wanted, embed, rebuild, width)
    if index is None:
        raise UserError(f"--index {source}: none of its {len(wanted):,} files can be read")
    return index


def _stamp(file: Path) -> Stamp | None:
    try:
        stat = file.stat()
    except OSError:  # deleted meanwhile, or a broken link
        return None
    return stat.st_mtime_ns, stat.st_size


def _of_images(model: Any, folder: Path, names: Sequence[str], bar: Any) -> Embedded:
    problems: list[UserError] = []

    def unreadable(path: Path, error: UserError) -> None:
        bar.update()
        problems.append(error)

    for paths, images in read_chunks((folder / name for name in names), inputs_of(model), unreadable):
        yield [path.relative_to(folder).as_posix() for path in paths], _embed_images(model, images)
        bar.update(len(paths))
    if problems:
        logger.warning("left out: %s files that cannot be read, the first: %s", f"{len(problems):,}", problems[0])


def _of_texts(model: Any, names: Sequence[str], bar: Any) -> Embedded:
    for start in range(0, len(names), CHUNK):
        chunk = list(names[start : start + CHUNK])
        yield chunk, model.embed_text(chunk)
        bar.update(len(chunk))
