"""Configs with a frozen text encoder: it is taken from a trained model, and every caption is encoded once."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax import data
from mmjax.config import Config
from mmjax.engine import setup
from mmjax.export import frozen_text, load
from mmjax.parallel import processes
from mmjax.train.workdir import read_config
from mmjax.types import UserError


def settings(config: Config, workdir: Path) -> dict[str, Any]:
    """What the frozen text encoder is, as plain data for the config's `text_encoder`.

    Raises:
        UserError: where what tokens.text_encoder names is no model, or one without a text encoder.
    """
    folder = Path(config.tokens.text_encoder)
    if _is_gone(folder, workdir):
        return dataclasses.asdict(frozen_text.read(workdir / frozen_text.FILE).settings)
    theirs = read_config(folder)
    found = frozen_text.settings_of(theirs)
    if found is None:
        raise UserError(
            f"tokens.text_encoder: {folder} holds no text encoder but a {theirs.model.kind}; name a model of kind "
            "masked_generator or direct"
        )
    return dataclasses.asdict(found)


def keep(config: Config, workdir: Path) -> None:
    """Puts a copy of the frozen text encoder into the workdir, which from now on needs no other.

    Raises:
        UserError: where the workdir holds another one.
    """
    folder, path = Path(config.tokens.text_encoder), workdir / frozen_text.FILE
    if config.text_encoder is None or _is_gone(folder, workdir):
        return
    given = load(folder).frozen_text()
    if not processes.once(path.exists):
        processes.once(lambda: frozen_text.write(path, given))
    elif _key(config, frozen_text.read(path)) != _key(config, given):
        raise UserError(f"--workdir {workdir}: has another text encoder than {folder}; name another one")


def _is_gone(folder: Path, workdir: Path) -> bool:
    """Whether all that is left of the model is the workdir's copy of its text encoder."""
    return not folder.exists() and (workdir / frozen_text.FILE).exists()


def _key(config: Config, frozen: frozen_text.FrozenText) -> dict[str, Any]:
    return data.text_cache_key(frozen.params, frozen.tokenizer, config)


def add(config: Config, workdir: Path, sources: Sequence[data.Source], repair: bool = False) -> None:
    """Lets the sources give the features of texts, where the config's text encoder is frozen.

    What the cache of the config's tokens does not hold of their captions is encoded first.

    Args:
        repair: encode again what is damaged.

    Raises:
        UserError: where the cache holds the features of another text encoder.
    """
    if config.text_encoder is None:
        return
    frozen = frozen_text.read(workdir / frozen_text.FILE)
    tokenizer, placement = data.load_tokenizer(frozen.tokenizer), setup.own_placement(config)
    params = jax.device_put(frozen.params, placement.whole)
    compiled = jax.jit(frozen_text.encoder(config.text_encoder), out_shardings=placement.batch)

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        text = tokenizer.encode(texts, config.text.length)
        return jax.device_get(compiled(params, placement.put({"text": text})["text"])), text != 0

    folder = Path(config.tokens.cache or workdir / "tokens") / "text"
    key, batch = _key(config, frozen), config.evaluate.batch

    def cached() -> None:
        captions = itertools.chain.from_iterable(source.all_captions() for source in sources)
        features = data.cached_text_features(folder, key, captions, encode, batch, repair)
        for source in sources:
            source.text_features = features

    processes.once(cached)
    if not processes.is_first():
        cached()  # all is there by now
