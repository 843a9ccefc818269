"""Loads model folders and workdirs."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError

from mmjax import models
from mmjax.config import ComponentConfig, Config
from mmjax.data.text import JSON_FILE, MAX_TOKENIZER, TextTokenizer, load_tokenizer, tokenizer_file
from mmjax.export import frozen_text
from mmjax.export import lora as lora_files
from mmjax.export.describing import Captioner, DualEncoder, QuestionAnswerer
from mmjax.export.generating import DirectImageGenerator, ImageGenerator, ImageTokenizer
from mmjax.export.loaded import LoadedModel
from mmjax.export.model_folder import flatten, read_params, tokenizer_digest
from mmjax.export.pretrained_models import is_pretrained, load_pretrained
from mmjax.files import check_shapes, read_file, read_parameters
from mmjax.models import text_encoder
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.pretrained.weights import PICKLES, unsafe
from mmjax.train import lora as train_lora
from mmjax.train.workdir import read_config, read_json
from mmjax.types import Params, UserError

# By the names of abilities in ModelSpec.
ABILITIES: dict[str, type[LoadedModel]] = {
    "answer": QuestionAnswerer,
    "caption": Captioner,
    "embed": DualEncoder,
    "encode": ImageTokenizer,
    "generate": ImageGenerator,
    "generate_directly": DirectImageGenerator,
}


def load(
    path: str | Path,
    step: int | str | None = None,
    *,
    plugins: Iterable[str] = (),
    lora: Mapping[str | Path, float] | None = None,
) -> Any:
    """Loads a model folder, a checkpoint of a workdir, or a pretrained model in Hugging Face's layout.

    Args:
        step: of a workdir: a step or "best"; None: the newest checkpoint.
        plugins: packages whose code its config may name; no other is imported.
        lora: files of LoRAs and their weights, which are added to its kernels, as in {"word.safetensors": 0.8}; of
            pretrained models also folders in PEFT's layout.

    Returns:
        An object with the methods of the model's abilities: ImageGenerator, DirectImageGenerator, ImageTokenizer,
        Captioner, QuestionAnswerer, DualEncoder, or several of them combined; of pretrained models
        PretrainedTextEncoder, PretrainedImageEncoder, PretrainedDualEncoder or PretrainedAutoencoder.

    Raises:
        UserError: if the path is none of them, its files are corrupt, `step` is given for a model folder, or a LoRA is
            none of this model.
    """
    folder, plugins = Path(path), tuple(plugins)
    if folder.suffix in PICKLES and folder.is_file():
        raise UserError(unsafe(folder))
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name the folder it is in, with its config.json")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a model folder of mmjax export or a workdir of mmjax train")
    if is_pretrained(folder):
        if step is not None:
            raise UserError(f"{folder}: a pretrained model has no steps; leave step out")
        return load_pretrained(folder, plugins, lora)
    config = _loadable(read_config(folder, plugins=plugins))
    is_workdir = _is_workdir(folder)
    if step is not None and not is_workdir:
        raise UserError(f"{folder}: a model folder holds one step only; give step with a workdir, or leave it out")
    if is_workdir:
        _, params = restored(folder, config, step)
        components = {name: _component(folder, name, plugins) for name in config.separate_components()}
    else:
        shapes = jax.eval_shape(lambda: _all_params(config))
        params = dict(read_params(folder / "model.safetensors", shapes))
        components = {name: params.pop(name) for name in config.separate_components()}
    tokenizer = _tokenizer(folder, config)
    if lora:
        params = lora_files.with_loras(params, lora)
    params, components = jax.device_put((params, components))
    return model_class(config)(config, params, tokenizer, components)


def _tokenizer(folder: Path, config: Config) -> TextTokenizer:
    frozen = text_encoder.frozen(config)
    encoder = text_encoder.innermost(frozen) if frozen else ComponentConfig(config=config)
    path = tokenizer_file(folder)
    if not path.exists():
        raise UserError(f"{path}: no such file; run mmjax train, or mmjax export again")
    tokenizer = load_tokenizer(path)
    if (encoder.pretrained is not None) != (path.name == JSON_FILE):
        raise UserError(f"{path}: is a tokenizer of another text encoder; export the model again")
    vocabulary = encoder.config.text.vocabulary if encoder.config else tokenizer.size
    if tokenizer.size > vocabulary:
        raise UserError(
            f"{path}: has {tokenizer.size} tokens, text.vocabulary is {vocabulary}; is it of another model?"
        )
    _check_tokenizer(folder, tokenizer.proto)
    return tokenizer


def model_class(config: Config) -> type[LoadedModel]:
    """The class of a config's model, which combines those of its abilities."""
    return _combined(tuple(sorted(models.find(config).abilities(config))))


@functools.cache
def _combined(abilities: tuple[str, ...]) -> type[LoadedModel]:
    bases = tuple(ABILITIES[name] for name in abilities)
    if len(bases) <= 1:
        return bases[0] if bases else LoadedModel
    names = [base.__name__ for base in bases]
    return type("And".join(names), bases, {"__doc__": f"A model with the methods of {', '.join(names)}."})


def _restored(folder: Path, at: str, best: str, step: int | str | None, config: Config | None) -> tuple[int, Params]:
    from mmjax.train.checkpoint import Checkpoints  # imports Orbax, which is slow and not needed for model folders
    from mmjax.train.identity import identity

    if not at and not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: no checkpoint there yet; run mmjax train with this --workdir first")
    with contextlib.closing(Checkpoints(folder, best=best, read_only=True, at=at)) as checkpoints:
        checkpoints.run = identity(config, read_json(folder).get("data"), read_text_tokenizer(folder))
        return checkpoints.restore_params(step)


def restored(workdir: Path, config: Config, step: int | str | None = None) -> tuple[int, Params]:
    """The step and parameters of a checkpoint of a workdir, those of a LoRA added to the model that it started from.

    Args:
        config: that of the workdir, as in read_config.

    Raises:
        UserError: where there is none, or they are not those of this config, its examples and its text tokenizer.
    """
    if config.lora.rank:
        step, added, base = restored_lora(workdir, config, step)
        return step, jax.device_get(train_lora.merged(base, added, train_lora.scale(config.lora)))
    step, params = _restored(workdir, config.train.checkpoints, config.train.best_metric, step, config)
    _check(workdir, params, jax.eval_shape(lambda: models.init(config, jax.random.key(0))))
    return step, params


def restored_lora(workdir: Path, config: Config, step: int | str | None = None) -> tuple[int, Params, Params]:
    """The step and parameters of a checkpoint of a LoRA, and those of the model that it adds to; see `restored`."""
    step, added = _restored(workdir, config.train.checkpoints, config.train.best_metric, step, config)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    _check(workdir, added, jax.eval_shape(lambda: train_lora.init(config.lora, shapes, jax.random.key(0))))
    return step, added, lora_files.read_base(workdir, shapes)


def _check(workdir: Path, params: Params, shapes: Params) -> None:
    found, wanted = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (params, shapes))
    check_shapes(workdir / "checkpoints", found, wanted)


def load_params(path: str | Path) -> Params:
    """Loads the parameters of a model folder, or of the newest checkpoint of a workdir, without the model's code.

    Raises:
        UserError: if the path is neither, or its files are corrupt.
    """
    folder = Path(path)
    config = read_json(folder)["config"]
    try:
        if _is_workdir(folder):
            train = config["train"]
            params = _restored(folder, train["checkpoints"], train["best_metric"], None, None)[1]
            if (lora := config.get("lora", {"rank": 0}))["rank"]:
                scale = (lora["alpha"] or lora["rank"]) / lora["rank"]
                params = jax.device_get(train_lora.merged(lora_files.read_base(folder), params, scale))
            return params
        components = tuple(f"{name}/" for name in config["components"])
        arrays = read_parameters(folder / "model.safetensors")
        return {name: leaf for name, leaf in arrays.items() if not name.startswith(components)}
    except (KeyError, TypeError, OSError, SafetensorError) as error:
        raise UserError(f"{folder}: holds no whole model of mmjax: {error}") from error


def read_text_tokenizer(path: str | Path) -> bytes:
    """Reads the serialized text tokenizer of a model folder or workdir.

    Raises:
        UserError: if there is none, or it is not the one that a model folder was written with.
    """
    folder = Path(path)
    try:
        tokenizer = read_file(tokenizer_file(folder), MAX_TOKENIZER)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no tokenizer.model there; name a model folder or a workdir of mmjax train") from error
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error
    _check_tokenizer(folder, tokenizer)
    return tokenizer


def _check_tokenizer(folder: Path, tokenizer: bytes) -> None:
    if tokenizer_digest(folder) not in ("", hashlib.sha256(tokenizer).hexdigest()):
        raise UserError(
            f"{tokenizer_file(folder)}: is not the one of model.safetensors, so that words would change their "
            "meaning; export the model again"
        )


def _component(folder: Path, name: str, plugins: tuple[str, ...]) -> Params:
    if name == TEXT_ENCODER:
        return frozen_text.read(folder / frozen_text.FILE, plugins).params
    params: Params = load(folder / name, plugins=plugins).params
    return params


def _all_params(config: Config) -> dict[str, Any]:
    """Initializes all parameters of a model folder, those of components included."""
    params = dict(models.init(config, jax.random.key(0)))
    for name, component in config.separate_components().items():
        if name == TEXT_ENCODER and (component.config or component.pretrained):
            params[name] = frozen_text.init(component, jax.random.key(0))
        elif component.config is not None:
            params[name] = models.init(component.config, jax.random.key(0))
        else:
            raise UserError(f"config.json: components.{name}.config: is missing")
    return params


def _is_workdir(folder: Path) -> bool:
    """Whether a folder is a workdir; the config.json of a model folder has a step."""
    return not (folder / "model.safetensors").exists() and "step" not in read_json(folder)


def _loadable(config: Config) -> Config:
    """The config with the default kernels, so that a model runs on other devices than it was trained on."""
    kernels: dict[str, Any] = {"attention": "auto", "convolution": "auto", "remat": False}
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, **kernels))
