"""Loading a model folder or a workdir."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from mmjax import models
from mmjax.config import Config, MaskedGeneratorConfig
from mmjax.data.text import load_tokenizer
from mmjax.export import frozen_text
from mmjax.export.frozen_text import TEXT_ENCODER
from mmjax.export.model import GenerativeModel
from mmjax.export.model_folder import REFERENCE, VISUAL_TOKENIZER, read_params
from mmjax.train.workdir import read_config
from mmjax.types import UserError


def load(path: str | Path, step: int | str | None = None) -> GenerativeModel:
    """Loads a model folder, or the newest checkpoint of a workdir, or that of a step, or the "best".

    Raises:
        UserError: where the path is neither, or what it holds is broken, or a step is given with a model folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a model folder of mmjax export or a workdir of mmjax train")
    config = _runnable(read_config(folder))
    is_workdir = _is_workdir(folder)
    if is_workdir and not config.train.checkpoints and not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: no checkpoint there yet; run mmjax train with this --workdir first")
    if step is not None and not is_workdir:
        raise UserError(f"{folder}: a model folder holds one step only; give step with a workdir, or leave it out")
    if not (folder / "tokenizer.model").exists():
        raise UserError(f"{folder / 'tokenizer.model'}: no such file; run mmjax train, or mmjax export again")
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    if is_workdir:
        from mmjax.train.checkpoint import Checkpoints  # here, since a model folder needs no Orbax, slow to import

        checkpoints = Checkpoints(folder, best=config.train.best_metric, read_only=True, at=config.train.checkpoints)
        try:
            _, params = checkpoints.restore_params(step)
        finally:
            checkpoints.close()
    else:
        params = read_params(folder / "model.safetensors", jax.eval_shape(lambda: _all_params(config)))
    params = dict(params)
    theirs = {part: load(folder / part).params if is_workdir else params.pop(part) for part in _parts(config)}
    if config.text_encoder is not None:
        kept = frozen_text.read(folder / frozen_text.FILE).params if is_workdir else params.pop(TEXT_ENCODER)
        theirs[TEXT_ENCODER] = kept
    mine, others = jax.device_put((params, theirs))
    found = (others.get(part, {}) for part in (VISUAL_TOKENIZER, REFERENCE, TEXT_ENCODER))
    return GenerativeModel(config, mine, tokenizer, *found)


def _all_params(config: Config) -> dict[str, Any]:
    """Fresh parameters of all that a model folder of the config holds."""
    params = dict(models.init(config, jax.random.key(0)))
    if config.text_encoder is not None:
        params[TEXT_ENCODER] = frozen_text.init(config.text_encoder, jax.random.key(0))
    return params | {part: models.init(getattr(config, part), jax.random.key(0)) for part in _parts(config)}


def _parts(config: Config) -> list[str]:
    """The visual tokenizers that a config's model works with."""
    parts = (VISUAL_TOKENIZER, REFERENCE) if isinstance(config.model, MaskedGeneratorConfig) else ()
    return [part for part in parts if getattr(config, part) is not None]


def _is_workdir(folder: Path) -> bool:
    """Of a folder whose config.json is one of mmjax: that of a model folder tells its step."""
    if (folder / "model.safetensors").exists():
        return False
    return "step" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _runnable(config: Config) -> Config:
    """The config with a kernel that runs here: a model trained on a GPU or a pod also draws without one."""
    trained = getattr(config.model, "attention", "xla")
    if trained == "xla" or (trained == "cudnn" and jax.default_backend() == "gpu"):
        return config
    kernel: dict[str, Any] = {"attention": "xla"}  # not every kind of model has the field
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **kernel))
