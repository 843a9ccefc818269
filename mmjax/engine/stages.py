"""Configs of two stages: a visual tokenizer is trained first, then a generator on the codes that it gives."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from mmjax import data
from mmjax.config import Config, MaskedGeneratorConfig, VisualTokenizerConfig, differences, resolve, to_dict
from mmjax.data.shard_cache import is_complete, params_digest, read_cache
from mmjax.data.tokens import KIND, Split
from mmjax.engine import setup, text_features
from mmjax.export import frozen_text, load, write_model_folder
from mmjax.export.frozen_text import TEXT_ENCODER
from mmjax.export.model_folder import REFERENCE, VISUAL_TOKENIZER
from mmjax.models import masked_generator
from mmjax.parallel import processes
from mmjax.train.workdir import check_config, read_config
from mmjax.types import Params, UserError

# What messages call the visual tokenizers: that of the images, and that of the references.
TOKENIZERS = {VISUAL_TOKENIZER: "visual tokenizer", REFERENCE: "reference tokenizer"}


def has_two(config: Config) -> bool:
    """Whether the config's model works on the codes of a visual tokenizer."""
    return isinstance(config.model, MaskedGeneratorConfig)


def tokenizers(config: Config) -> tuple[str, ...]:
    """The visual tokenizers that the config's model works with, by their names in the config."""
    if not has_two(config):
        return ()
    return tuple(part for part in TOKENIZERS if getattr(config, part) is not None or getattr(config.tokens, part))


def settled(config: Config, workdir: Path) -> Config:
    """The config with those of its visual tokenizers, and of a frozen text encoder, in place.

    Raises:
        UserError: where what it names as such is none, or a tokenizer does not fit the config.
    """
    given = [part for part in tokenizers(config) if getattr(config.tokens, part)]
    found = {part: to_dict(_given_config(config, workdir, part)) for part in given}
    if config.tokens.text_encoder:
        found[TEXT_ENCODER] = text_features.settings(config, workdir)
    return resolve(to_dict(config) | found) if found else config


def _given_config(config: Config, workdir: Path, part: str) -> Config:
    theirs = read_config(_given(config, workdir, part))
    if isinstance(theirs.model, MaskedGeneratorConfig) and theirs.tokenizer is not None:
        return theirs.tokenizer
    if not isinstance(theirs.model, VisualTokenizerConfig):
        folder = getattr(config.tokens, part)
        raise UserError(f"tokens.{part}: {folder} holds no visual tokenizer but a {theirs.model.kind}")
    return theirs


def tokenizer_params(
    config: Config, workdir: Path, train: Callable[[Config, Path], int]
) -> tuple[int, dict[str, Params]]:
    """The parameters of the trained visual tokenizers, which from now on lie in the workdir, by their names.

    Args:
        config: a settled config.
        train: trains a config in a workdir, and returns an exit status.

    Returns:
        The exit status of their training, other than 0 if it was interrupted, and the parameters.

    Raises:
        UserError: where the workdir holds another one, or the training of another config.
    """
    if has_two(config):
        processes.once(lambda: check_config(workdir, config))
        text_features.keep(config, workdir)
    own = [part for part in tokenizers(config) if not getattr(config.tokens, part)]
    for part in own:
        if _is_copy(workdir / part):
            raise UserError(
                f"--workdir {workdir}: has a {TOKENIZERS[part]} that was trained elsewhere; name it again with "
                f"--config.tokens.{part}=DIR, or name another workdir"
            )
    # Those that are given first: what does not fit is told before anything is trained.
    found = {part: _copied(config, workdir, part) for part in tokenizers(config) if part not in own}
    for part in own:
        if status := train(getattr(config, part), workdir / part):
            return status, {}
        found[part] = load(workdir / part).params
    return 0, found


def _copied(config: Config, workdir: Path, part: str) -> Params:
    """The parameters of a visual tokenizer that was trained elsewhere, of which the workdir gets a copy."""
    folder, given = workdir / part, load(_given(config, workdir, part))
    config_dict, params = given.config, given.params
    if isinstance(config_dict.model, MaskedGeneratorConfig):
        assert config_dict.tokenizer is not None
        config_dict, params = config_dict.tokenizer, given.visual_tokenizer
    if not processes.once((folder / "config.json").exists):
        workdir.mkdir(parents=True, exist_ok=True)
        proto = given.tokenizer.proto
        processes.once(lambda: write_model_folder(folder, config_dict, jax.device_get(params), proto, 0, {}))
    elif not _holds(folder, params):
        named = getattr(config.tokens, part)
        raise UserError(f"--workdir {workdir}: has another {TOKENIZERS[part]} than {named}; name another one")
    return params


def _given(config: Config, workdir: Path, part: str) -> Path:
    """The folder that the config's tokens name; the workdir's own copy of it where it is gone."""
    given, copy = Path(getattr(config.tokens, part)), workdir / part
    return copy if _is_copy(copy) and not given.exists() else given


def _is_copy(folder: Path) -> bool:
    """Whether a visual tokenizer of a workdir was trained elsewhere."""
    return (folder / "model.safetensors").exists()


def _holds(folder: Path, params: Params) -> bool:
    try:
        return params_digest(load(folder).params) == params_digest(params)
    except UserError:  # a training that has only begun
        return False


def trained_params(config: Config, workdir: Path) -> dict[str, Params]:
    """The parameters of what a workdir whose training has begun holds beside, by their names.

    That is the visual tokenizers, and a frozen text encoder.
    """
    found = {part: load(workdir / part).params for part in tokenizers(config)}
    if config.text_encoder is not None:
        found[TEXT_ENCODER] = frozen_text.read(workdir / frozen_text.FILE).params
    return found


def tokens(
    config: Config, workdir: Path, split: Split, params: Mapping[str, Params], repair: bool = False
) -> data.Source:
    """The codes of a split as a source; encoded first, where that was not done before.

    Once they are there, neither the data set nor TensorFlow is needed any more. Of several processes the first encodes.
    Each part of a mixture has codes of its own, so that its weight does not change them.

    Args:
        params: of the visual tokenizers, by their names.
        repair: encode again what is damaged.

    Raises:
        UserError: where the cache holds the codes of another tokenizer or of other data.
    """
    folder = Path(config.tokens.cache or workdir / "tokens") / split
    if config.data.source != "mixture":
        return _tokens(config, folder, split, params, repair)
    parts = {
        name: _tokens(dataclasses.replace(config, data=part), folder / name, split, params, repair)
        for name, part in config.data.mixture.items()
    }
    return data.mix(parts, config.data, training=split == "train")


def _tokens(config: Config, root: Path, split: Split, params: Mapping[str, Params], repair: bool) -> data.Source:
    assert config.tokenizer is not None
    ours, theirs = jax.device_get((params[VISUAL_TOKENIZER], params.get(REFERENCE)))
    key = data.token_cache_key(ours, config.tokenizer, config, split, theirs)
    folder = Path(processes.once(lambda: str(_cache(root, key))))

    def encode() -> None:
        if not is_complete(folder, KIND, verify=repair):
            _encode(config, folder, key, split, params)

    processes.once(encode)
    return data.open_tokens(folder, key)


def _encode(config: Config, folder: Path, key: Mapping[str, Any], split: Split, params: Mapping[str, Params]) -> None:
    """Writes the cached tokens of a split, on this process's devices."""
    source = data.open_source(config.data, training=split == "train", seed=config.seed)
    placement = setup.own_placement(config)
    placed = jax.device_put(dict(params), placement.whole)
    functions = masked_generator.functions(config)

    def encode(params: Mapping[str, Params], image: jax.Array) -> dict[str, jax.Array]:
        codes = {"codes": functions.encode(params[VISUAL_TOKENIZER], image)}
        if functions.encode_reference is not None:
            codes["reference_codes"] = functions.encode_reference(params[REFERENCE], image)
        return codes

    compiled = jax.jit(encode, out_shardings=placement.batch)

    def encoded(image: np.ndarray) -> dict[str, np.ndarray]:
        codes: dict[str, np.ndarray] = jax.device_get(compiled(placed, placement.put({"image": image})["image"]))
        return codes

    data.write_tokens(folder, key, source, config, split, encoded, batch=config.evaluate.batch)


def _cache(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where the codes of a split lie: evaluation examples chosen otherwise than at first have a folder of their own."""
    cache = read_cache(folder, KIND)
    if cache is None or not cache.complete:
        return folder
    changed = {name: now for name, _, now in differences(cache.key, key)}
    if not changed or not all(name.startswith("data.evaluation_") for name in changed):
        return folder
    chosen = (str(key["data"].get(name, "")) for name in ("evaluation_split", "evaluation_examples"))
    return folder.with_name("-".join([folder.name, *filter(None, chosen)]))


def sources(
    config: Config, workdir: Path, params: Mapping[str, Params], repair: bool = False
) -> tuple[data.Source, data.Source]:
    """What the config's model is trained and evaluated on: the data set, or its codes; see tokens."""
    if has_two(config):
        training, held_out = (tokens(config, workdir, split, params, repair) for split in get_args(Split))
        text_features.add(config, workdir, (training, held_out), repair)
        return training, held_out
    opened = [data.open_source(config.data, training=training, seed=config.seed) for training in (True, False)]
    return opened[0], opened[1]


def evaluation_source(config: Config, workdir: Path, params: Mapping[str, Params]) -> data.Source:
    """The second of `sources` alone."""
    if has_two(config):
        source = tokens(config, workdir, "evaluation", params)
        text_features.add(config, workdir, [source])
        return source
    return data.open_source(config.data, training=False, seed=config.seed)
