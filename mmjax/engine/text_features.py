"""Frozen text encoders: copied from a trained model; the features of all captions are cached."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax import data, registry
from mmjax.config import Config, to_dict
from mmjax.engine import setup
from mmjax.export import frozen_text, load
from mmjax.models import text_encoder
from mmjax.models.masked_generator import TEXT_ENCODER
from mmjax.parallel import processes
from mmjax.types import Params, UserError


def keep(config: Config, workdir: Path, is_gone: bool) -> Params:
    """Copies the frozen text encoder to the workdir and returns its parameters.

    Args:
        is_gone: only the workdir's copy is left.

    Raises:
        UserError: if the workdir holds another one.
    """
    component, path = config.components[TEXT_ENCODER], workdir / frozen_text.FILE
    plugins = registry.packages(to_dict(config))
    if is_gone:
        return frozen_text.read(path, plugins).params
    given = frozen_text.of_model(load(component.path, plugins=plugins))
    if not processes.run_on_primary(path.exists):
        processes.run_on_primary(lambda: frozen_text.write(path, given))
    elif _key(config, frozen_text.read(path, plugins)) != _key(config, given):
        raise UserError(f"--workdir {workdir}: has another text encoder than {component.path}; name another one")
    return given.params


def _key(config: Config, frozen: frozen_text.FrozenText) -> dict[str, Any]:
    settings = dataclasses.asdict(text_encoder.settings(frozen.config))
    return data.text_cache_key(frozen.params, frozen.tokenizer, settings, config.text.length)


def add(config: Config, workdir: Path, sources: Sequence[data.Source], repair: bool = False) -> None:
    """Adds cached text features to the sources if the text encoder of the config is frozen.

    Captions that are not cached are encoded first.

    Args:
        repair: encode corrupt shards again.

    Raises:
        UserError: if the cache holds the features of another text encoder.
    """
    if TEXT_ENCODER not in config.components:
        return
    frozen = frozen_text.read(workdir / frozen_text.FILE, registry.packages(to_dict(config)))
    tokenizer, placement = data.load_tokenizer(frozen.tokenizer), setup.local_placement(config)
    params = jax.device_put(frozen.params, placement.replicated)
    compiled = jax.jit(
        frozen_text.encoder(frozen.config, setup.resolved_compute(config, placement)), out_shardings=placement.batch
    )

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        text = tokenizer.encode(texts, config.text.length)
        return jax.device_get(compiled(params, placement.shard_batch({"text": text})["text"])), text != 0

    folder = Path(config.tokens.cache or workdir / "tokens") / "text"
    key, batch = _key(config, frozen), config.evaluate.batch

    def add_features() -> None:
        captions = itertools.chain.from_iterable(source.all_captions() for source in sources)
        features = data.cached_text_features(folder, key, captions, encode, batch, repair)
        for source in sources:
            source.text_features = features

    processes.run_on_primary(add_features)
    if not processes.is_primary():
        add_features()  # from the complete cache
