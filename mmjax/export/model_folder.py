"""Model folders: config.json, model.safetensors, the text tokenizer and a model card."""

import contextlib
import dataclasses
import hashlib
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmjax import models
from mmjax.config import ComputeConfig, Config, to_dict
from mmjax.data.text import FILES as TOKENIZERS
from mmjax.data.text import file_name
from mmjax.files import check_regular, check_writable, names_in, read_parameters, write_json
from mmjax.models import visual_tokenizer
from mmjax.models.masked_generator import REFERENCE
from mmjax.train.workdir import read_json, versions
from mmjax.types import Params, UserError, leaf_name

TOKENIZER = "tokenizer_sha256"  # in the metadata of model.safetensors
FILES = ("config.json", "model.safetensors", *TOKENIZERS, "README.md")
PARTIAL = ".partial"  # ending of the folder that is filled first


def write_model_folder(
    folder: Path, config: Config, params: Params, tokenizer: bytes, step: int, metrics: Mapping[str, float]
) -> None:
    """Writes a model folder atomically, replacing an existing one.

    An existing folder stays and its files are replaced, config.json last: it may be a mount point.

    Raises:
        UserError: if the folder exists and is something else, or cannot be written.
    """
    folder = folder.resolve()
    check_model_folder(folder)
    exists = folder.exists()
    temporary = folder / PARTIAL if exists else folder.with_name(f".{folder.name}{PARTIAL}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        temporary.mkdir(parents=True)
        served = dataclasses.replace(config, compute=ComputeConfig(dtype=config.compute.dtype))
        write_json(temporary / "config.json", {"config": to_dict(served), "step": step, "versions": versions()})
        # safetensors needs contiguous arrays; np.ascontiguousarray would turn a scalar into an array of one.
        arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten(params).items()}
        about = {"format": "mmjax", TOKENIZER: hashlib.sha256(tokenizer).hexdigest()}
        save_file(arrays, temporary / "model.safetensors", about)
        (temporary / "model.safetensors").chmod(0o644)  # safetensors makes it readable by the owner only
        (temporary / file_name(tokenizer)).write_bytes(tokenizer)
        (temporary / "README.md").write_text(_card(config, params, step, metrics), encoding="utf-8")
        if exists:
            _replace_files(folder, temporary)
        else:
            temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--out {folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_files(folder: Path, temporary: Path) -> None:
    """Moves all files from `temporary`, which is in the folder, into it; where that fails, the old ones are kept."""
    (old := temporary / "old").mkdir()
    try:
        for name in FILES:
            if (folder / name).exists():
                (folder / name).rename(old / name)
        for name in reversed(FILES):
            if (temporary / name).exists():  # one of the two of the text tokenizer
                (temporary / name).rename(folder / name)
    except OSError:
        for path in old.iterdir():
            path.replace(folder / path.name)
        raise


def check_model_folder(folder: Path) -> None:
    """Raises UserError if a model folder cannot be written: the folder is something else, or may not be changed."""
    folder = folder.resolve()
    if problem := _obstacle(folder):
        raise UserError(f"--out {folder}: {problem}; name another one")
    try:
        check_writable(folder, folder=True)
    except UserError as error:
        raise UserError(f"--out {error}") from None


def _obstacle(folder: Path) -> str:
    """Why a folder may not be written; "" if it is missing, empty or a model folder of mmjax.

    File names alone do not tell, since other libraries use the same ones.
    """
    if not folder.exists():
        return ""
    if not folder.is_dir():
        return "is a file"
    names = names_in(folder)
    if others := sorted(names - {*FILES, PARTIAL}):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return f"holds other files: {', '.join(others[:3])}{more}"
    try:
        ours = not names or PARTIAL in names or ("model.safetensors" in names and "step" in read_json(folder))
    except UserError:
        ours = False
    return "" if ours else "exists and is no model folder"


def flatten(params: Params) -> dict[str, Any]:
    """Parameters by path, such as `text/stack/block/mlp_in/kernel`."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def read_params(path: Path, shapes: Params) -> Params:
    """Reads parameters from a safetensors file as a tree like `shapes`.

    Raises:
        UserError: if the file is missing or corrupt, or does not hold exactly these parameters, all finite.
    """
    wanted = {name: leaf.shape for name, leaf in flatten(shapes).items()}
    try:
        found = read_parameters(path, wanted)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model folder needs it, export the model again") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); export the model again") from error
    return jax.tree.unflatten(jax.tree.structure(shapes), [found[name] for name in wanted])


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the text tokenizer that a model folder was written with; "" if it does not say."""
    with contextlib.suppress(OSError, SafetensorError):  # read_params reports what cannot be read
        check_regular(folder / "model.safetensors")
        with safe_open(folder / "model.safetensors", "numpy") as file:
            return str((file.metadata() or {}).get(TOKENIZER, ""))
    return ""


def _card(config: Config, params: Params, step: int, metrics: Mapping[str, float]) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    parts = ", ".join(f"{part.weight:g} x `{part.source}`" for part in config.data.mixture.values())
    source = f"`{config.data.source}`" + (f" of {parts}" if parts else "")
    table = "".join(f"| {name} | {value:.4g} |\n" for name, value in sorted(metrics.items())) or "| none yet | |\n"
    kind, lines = _described(config)
    code = "\n".join(['model = mmjax.load(".")', *lines])
    attributions = "".join(f"\nTraining data: {text}\n" for text in config.data.attributions)
    given = {name: each.pretrained for name, each in config.components.items() if each.pretrained}
    attributions += "".join(
        f"\nIts {name.replace('_', ' ')} is a model that others trained (`{each.settings.get('model_type')}`), with a "
        "license of its own.\n"
        for name, each in given.items()
    )
    numpy = "import numpy as np\n" if "np." in code else ""
    return f"""# {config.name}

{kind} {count:,} parameters, {step:,} steps on {source}.

In this folder:

```python
import mmjax
{numpy}
{code}
```

| metric | held-out examples |
| --- | --- |
{table}
`config.json` holds the whole config and the versions it was trained with.
{attributions}"""


def _described(config: Config) -> tuple[str, list[str]]:
    """A description of a model and lines of example code, by its abilities."""
    abilities = models.find(config).abilities(config)
    if {"generate", "generate_directly"} & abilities:
        return _described_generator(config)
    return _described_tokenizer(config) if "encode" in abilities else _described_writer(config, abilities)


def _described_generator(config: Config) -> tuple[str, list[str]]:
    size, frames = config.data.size, config.data.frames
    clip = [frames] if frames > 1 else []
    shown, what = ("clip", f"a clip of {frames} frames") if clip else ("image", "an image")
    reference = f" and a reference {shown}" if {"reference", "reference_codes"} & models.inputs(config).keys() else ""
    lines, argument = [], ""
    if (component := config.component(REFERENCE)) is not None:
        low = component.data.size
        reference += f" of {low} x {low} pixels"
        lines = [f"reference = np.zeros({(1, *clip, low, low, 3)}, np.uint8)  # the {shown} to look at"]
        argument = ", reference=reference"
    prompt = "a red circle moving left" if clip else "a red circle left of a blue square"
    lines.append(f'drawn = model.generate(["{prompt}"]{argument})  # uint8 {[1, *clip, size, size, 3]}')
    kind = config.model.kind.split("_")[0]
    return f"A {kind} generator of mmjax: text{reference} in, {what} of {size} x {size} pixels out.", lines


def _described_tokenizer(config: Config) -> tuple[str, list[str]]:
    size, frames, grid = config.data.size, config.data.frames, visual_tokenizer.grid(config)
    clip = [frames] if frames > 1 else []
    named, some = ("clips", f"clips of {frames} frames") if clip else ("images", "images")
    codes = f"{' x '.join(map(str, grid))} codes, each one of {math.prod(visual_tokenizer.levels(config)):,}"
    return f"A visual tokenizer of mmjax: {some} of {size} x {size} pixels to {codes}, and back.", [
        f"{named} = np.zeros({(1, *clip, size, size, 3)}, np.float32)  # -1 (black) to 1 (white)",
        f"codes = model.encode({named})  # int32 {[1, *grid]}",
        f"{named} = model.decode(codes)  # uint8",
    ]


WRITES = {
    "caption": ("captions", "captions = model.caption(images)"),
    "answer": ("answers to questions", 'answers = model.answer(images, ["what color is the circle?"])'),
    "embed": (
        "a shared embedding",
        'similarity = model.embed_text(["a red circle"]) @ model.embed_image(images).T  # -1 to 1',
    ),
}


def _described_writer(config: Config, abilities: frozenset[str]) -> tuple[str, list[str]]:
    *frames, rows, columns, channels = config.data.image_shape
    sound = channels == 1
    some = f"clips of {frames[0]} frames of" if frames else "log-mel features of sounds," if sound else "images of"
    what = f"{some} {rows} x {columns}{'' if sound else ' pixels'}"
    does, lines = (
        [],
        [f"images = np.zeros({(1, *config.data.image_shape)}, np.{'float32' if sound else 'uint8'})  # such as these"],
    )
    for ability, (name, line) in WRITES.items():
        if ability in abilities:
            does.append(name)
            lines.append(line)
    if not does:
        lines.append("outputs = model.apply(model.params, image=images)")
    return f"A model of {what} and texts, by mmjax: {', '.join(does or config.losses)}.", lines
