"""Recipes of two stages: a visual tokenizer is trained first, then a generator on the codes that it gives."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mmjax import data
from mmjax.config import Config, MaskedGenerator, VisualTokenizer, resolve, to_dict
from mmjax.data.tokens import Split, fingerprint
from mmjax.export import load, write_model_folder
from mmjax.export.model_folder import VISUAL_TOKENIZER
from mmjax.models import masked_generator
from mmjax.parallel import Placement, make_mesh
from mmjax.train.workdir import read_recipe
from mmjax.types import Params, UserError


def has_two(config: Config) -> bool:
    """Whether the recipe's model works on the codes of a visual tokenizer."""
    return isinstance(config.model, MaskedGenerator)


def settled(config: Config) -> Config:
    """The recipe with that of its visual tokenizer in place, which a trained one brings along.

    Raises:
        UserError: where the tokenizer does not fit the recipe.
    """
    if not has_two(config) or not config.tokens.tokenizer:
        return config
    theirs = read_recipe(Path(config.tokens.tokenizer))
    if not isinstance(theirs.model, VisualTokenizer):
        raise UserError(f"tokens.tokenizer: {config.tokens.tokenizer} holds no visual tokenizer but a {theirs.model.kind}")
    return resolve(to_dict(config) | {"tokenizer": to_dict(theirs)})


def tokenizer_params(config: Config, workdir: Path, train: Callable[[Config, Path], int]) -> tuple[int, Params]:
    """The parameters of the trained visual tokenizer, which from now on lies in the workdir.

    Args:
        config: a settled recipe of two stages.
        train: trains a recipe in a workdir, and returns an exit status.

    Returns:
        The exit status of its training, other than 0 if it was interrupted, and the parameters.

    Raises:
        UserError: where the workdir holds another one.
    """
    assert config.tokenizer is not None
    folder = workdir / VISUAL_TOKENIZER
    if not config.tokens.tokenizer:
        status = train(config.tokenizer, folder)
        return (status, {}) if status else (0, load(folder).params)
    given = load(config.tokens.tokenizer)
    if (folder / "config.json").exists():
        if fingerprint(load(folder).params) != fingerprint(given.params):
            raise UserError(
                f"--workdir {workdir}: has another visual tokenizer than {config.tokens.tokenizer}; name another workdir"
            )
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        write_model_folder(folder, given.config, jax.device_get(given.params), given.tokenizer.proto, 0, {})
    return 0, given.params


def trained_params(config: Config, workdir: Path) -> Params:
    """The parameters of the visual tokenizer of a workdir whose training has begun; {} for recipes of one stage."""
    return load(workdir / VISUAL_TOKENIZER).params if has_two(config) else {}


def tokens(config: Config, workdir: Path, split: Split, params: Params) -> data.Source:
    """The codes of a split as a source; encoded first, where that was not done before.

    Raises:
        UserError: where the cache holds the codes of another tokenizer or of other data.
    """
    assert config.tokenizer is not None
    folder = Path(config.tokens.cache or workdir / "tokens") / split
    address = data.token_address(jax.device_get(params), config.tokenizer, config, split)
    source = data.open_source(config.data, training=split == "train", seed=config.seed)
    placement = Placement(make_mesh(config.mesh))
    placed = jax.device_put(params, placement.whole)
    encode = jax.jit(masked_generator.functions(config).encode, out_shardings=placement.batch)

    def encoded(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"codes": jax.device_get(encode(placed, placement.put({"image": image})["image"]))}

    data.write_tokens(folder, address, source, config, split, encoded, batch=config.evaluate.batch)
    return data.open_tokens(folder, address)


def sources(config: Config, workdir: Path, params: Params) -> tuple[data.Source, data.Source]:
    """What the recipe's model is trained and evaluated on: the data set, or its codes."""
    if has_two(config):
        return tokens(config, workdir, "train", params), tokens(config, workdir, "evaluation", params)
    opened = [data.open_source(config.data, training=training, seed=config.seed) for training in (True, False)]
    return opened[0], opened[1]


def evaluation_source(config: Config, workdir: Path, params: Params) -> data.Source:
    """The second of `sources` alone."""
    if has_two(config):
        return tokens(config, workdir, "evaluation", params)
    return data.open_source(config.data, training=False, seed=config.seed)


