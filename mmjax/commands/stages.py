"""Recipes of two stages: a visual tokenizer is trained first, then a generator on the codes that it gives."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mmjax import data
from mmjax.config import Config, MaskedGenerator, VisualTokenizer, differences, resolve, to_dict
from mmjax.data.tokens import INDEX, Split, fingerprint, read_index
from mmjax.export import load, write_model_folder
from mmjax.export.model_folder import VISUAL_TOKENIZER
from mmjax.models import masked_generator
from mmjax.parallel import Placement, make_mesh
from mmjax.train.workdir import check_recipe, read_recipe
from mmjax.types import Params, UserError


def has_two(config: Config) -> bool:
    """Whether the recipe's model works on the codes of a visual tokenizer."""
    return isinstance(config.model, MaskedGenerator)


def settled(config: Config, workdir: Path) -> Config:
    """The recipe with that of its visual tokenizer in place, which a trained one brings along.

    Raises:
        UserError: where the tokenizer does not fit the recipe.
    """
    if not has_two(config) or not config.tokens.tokenizer:
        return config
    theirs = read_recipe(_given(config, workdir))
    if not isinstance(theirs.model, VisualTokenizer):
        raise UserError(
            f"tokens.tokenizer: {config.tokens.tokenizer} holds no visual tokenizer but a {theirs.model.kind}"
        )
    return resolve(to_dict(config) | {"tokenizer": to_dict(theirs)})


def tokenizer_params(config: Config, workdir: Path, train: Callable[[Config, Path], int]) -> tuple[int, Params]:
    """The parameters of the trained visual tokenizer, which from now on lies in the workdir; {} for one stage.

    Args:
        config: a settled recipe.
        train: trains a recipe in a workdir, and returns an exit status.

    Returns:
        The exit status of its training, other than 0 if it was interrupted, and the parameters.

    Raises:
        UserError: where the workdir holds another one, or the training of another recipe.
    """
    if not has_two(config):
        return 0, {}
    assert config.tokenizer is not None
    check_recipe(workdir, config)
    folder = workdir / VISUAL_TOKENIZER
    if not config.tokens.tokenizer:
        if _is_copy(folder):
            raise UserError(
                f"--workdir {workdir}: has a visual tokenizer that was trained elsewhere; name it again with "
                "--config.tokens.tokenizer=DIR, or name another workdir"
            )
        status = train(config.tokenizer, folder)
        return (status, {}) if status else (0, load(folder).params)
    given = load(_given(config, workdir))
    if (folder / "config.json").exists():
        if not _holds(folder, given.params):
            raise UserError(
                f"--workdir {workdir}: has another visual tokenizer than {config.tokens.tokenizer}; name another one"
            )
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        write_model_folder(folder, given.config, jax.device_get(given.params), given.tokenizer.proto, 0, {})
    return 0, given.params


def _given(config: Config, workdir: Path) -> Path:
    """The folder that tokens.tokenizer names; the workdir's own copy of it where it is gone."""
    given, copy = Path(config.tokens.tokenizer), workdir / VISUAL_TOKENIZER
    return copy if _is_copy(copy) and not given.exists() else given


def _is_copy(folder: Path) -> bool:
    """Whether a workdir's visual tokenizer was trained elsewhere."""
    return (folder / "model.safetensors").exists()


def _holds(folder: Path, params: Params) -> bool:
    try:
        return fingerprint(load(folder).params) == fingerprint(params)
    except UserError:  # a training that has only begun
        return False


def trained_params(config: Config, workdir: Path) -> Params:
    """The parameters of the visual tokenizer of a workdir whose training has begun; {} for recipes of one stage."""
    return load(workdir / VISUAL_TOKENIZER).params if has_two(config) else {}


def tokens(config: Config, workdir: Path, split: Split, params: Params, repair: bool = False) -> data.Source:
    """The codes of a split as a source; encoded first, where that was not done before.

    Once they are there, neither the data set nor TensorFlow is needed any more.

    Args:
        params: of the visual tokenizer.
        repair: encode again what is damaged.

    Raises:
        UserError: where the cache holds the codes of another tokenizer or of other data.
    """
    assert config.tokenizer is not None
    address = data.token_address(jax.device_get(params), config.tokenizer, config, split)
    folder = _cache(Path(config.tokens.cache or workdir / "tokens") / split, address)
    if (folder / INDEX).exists() and not repair:
        return data.open_tokens(folder, address)
    source = data.open_source(config.data, training=split == "train", seed=config.seed)
    placement = Placement(make_mesh(config.mesh))
    placed = jax.device_put(params, placement.whole)
    encode = jax.jit(masked_generator.functions(config).encode, out_shardings=placement.batch)

    def encoded(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"codes": jax.device_get(encode(placed, placement.put({"image": image})["image"]))}

    data.write_tokens(folder, address, source, config, split, encoded, batch=config.evaluate.batch)
    return data.open_tokens(folder, address)


def _cache(folder: Path, address: Mapping[str, Any]) -> Path:
    """Where the codes of a split lie: evaluation examples chosen otherwise than at first have a folder of their own."""
    if not (folder / INDEX).exists():
        return folder
    changed = {name: now for name, _, now in differences(read_index(folder / INDEX).address, address)}
    if not changed or not all(name.startswith("data.evaluation_") for name in changed):
        return folder
    chosen = (str(address["data"].get(name, "")) for name in ("evaluation_split", "evaluation_examples"))
    return folder.with_name("-".join([folder.name, *filter(None, chosen)]))


def sources(config: Config, workdir: Path, params: Params, repair: bool = False) -> tuple[data.Source, data.Source]:
    """What the recipe's model is trained and evaluated on: the data set, or its codes; see tokens."""
    if has_two(config):
        return tokens(config, workdir, "train", params, repair), tokens(config, workdir, "evaluation", params, repair)
    opened = [data.open_source(config.data, training=training, seed=config.seed) for training in (True, False)]
    return opened[0], opened[1]


def evaluation_source(config: Config, workdir: Path, params: Params) -> data.Source:
    """The second of `sources` alone."""
    if has_two(config):
        return tokens(config, workdir, "evaluation", params)
    return data.open_source(config.data, training=False, seed=config.seed)
