"""Components: frozen models that a model builds on, trained first or copied from elsewhere.

Their codes and text features of a data set are computed once and cached.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from mmjax import data, models, registry
from mmjax.config import ComponentConfig, Config, differences, resolve, to_dict
from mmjax.config.pretrained_fields import VISION_ENCODER
from mmjax.data.shard_cache import is_complete, read_cache
from mmjax.data.tokens import KIND, Split
from mmjax.engine import setup, vision_encoder
from mmjax.export import frozen_text, load, write_model_folder
from mmjax.export.load import read_text_tokenizer
from mmjax.export.pretrained_models import is_pretrained
from mmjax.files import params_digest
from mmjax.models.masked_generator import REFERENCE, TOKENIZER
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.parallel import processes
from mmjax.train.workdir import read_config
from mmjax.types import Batch, Params, UserError

WEIGHTS = "model.safetensors"  # in the copy of a component that was trained elsewhere


def resolve_config(config: Config, workdir: Path, plugins: Iterable[str] = ()) -> Config:
    """Fills in the configs of the components that are given as a path.

    Args:
        plugins: packages whose code these may name, besides those of the config; see registry.check_plugins.

    Raises:
        UserError: if a path holds no such model, or one that does not fit.
    """
    given = {name: each for name, each in config.components.items() if each.path}
    before = config.pretraining and resolve_config(config.pretraining, workdir / "pretraining", plugins)
    if not given and before == config.pretraining:
        return config
    plugins = (*plugins, *registry.packages(to_dict(config)))
    tree = to_dict(config)
    tree["pretraining"] = before and to_dict(before)
    for name, each in given.items():
        found = dataclasses.replace(_given(name, each, workdir, plugins), path=each.path)
        tree["components"][name] = to_dict(found)
    return resolve(tree)


def _given(name: str, component: ComponentConfig, workdir: Path, plugins: tuple[str, ...]) -> ComponentConfig:
    """The config of a trained component, or of the component of that name in a trained model."""
    if name == TEXT_ENCODER and _is_gone(component, workdir / frozen_text.FILE):
        return frozen_text.read(workdir / frozen_text.FILE, plugins).component
    if name == VISION_ENCODER:
        return vision_encoder.component_of(component, workdir, plugins)
    folder = _folder(component, workdir / name)
    if name == TEXT_ENCODER and is_pretrained(folder):
        return frozen_text.component_of_folder(folder, plugins)
    trained = read_config(folder, plugins=plugins)
    if name == TEXT_ENCODER:
        models.text_encoder.settings(trained)  # else it has none
        return ComponentConfig(config=trained)
    return ComponentConfig(config=trained.component(TOKENIZER) or trained)


def _is_gone(component: ComponentConfig, copy: Path) -> bool:
    """Whether only the workdir's copy of a trained component is left."""
    return not Path(component.path).exists() and copy.exists()


def _folder(component: ComponentConfig, copy: Path) -> Path:
    """The folder of a trained component, or the workdir's copy if it is gone."""
    return copy if _is_gone(component, copy / WEIGHTS) else Path(component.path)


def prepare(config: Config, workdir: Path, train: Callable[[Config, Path], int]) -> tuple[int, dict[str, Params]]:
    """Trains or copies the components into the workdir and returns their parameters by name.

    Args:
        config: with the configs of all components; see resolve_config. It is checked already, see preflight.
        train: trains a config in a workdir, and returns an exit status.

    Returns:
        Exit status of their training, nonzero if it was interrupted, and the parameters.

    Raises:
        UserError: if the workdir holds another component.
    """
    found = {}
    # Given components first, so that one that does not fit is reported before any is trained.
    for name, component in sorted(config.separate_components().items(), key=lambda item: not item[1].path):
        folder = workdir / name
        if name == TEXT_ENCODER and not component.path:
            raise UserError("components.text_encoder: name a trained model, as in --config.components.text_encoder=DIR")
        if name == TEXT_ENCODER:
            found[name] = copied_text_encoder(config, workdir)
        elif component.path:
            found[name] = _copied(name, component, folder)
        elif (folder / WEIGHTS).exists():  # a copy
            raise UserError(
                f"--workdir {workdir}: has a {name} that was trained elsewhere; name it again with "
                f"--config.components.{name}=DIR, or name another workdir"
            )
        else:
            assert component.config is not None
            if status := train(component.config, folder):
                return status, {}
            found[name] = load(folder, plugins=registry.packages(to_dict(component))).params
    return 0, found


def _copied(name: str, component: ComponentConfig, folder: Path) -> Params:
    """Copies a component that was trained elsewhere to the workdir and returns its parameters."""
    plugins = registry.packages(to_dict(component))
    given = load(_folder(component, folder), plugins=plugins)
    config, params = given.config, given.params
    if (inner := config.component(TOKENIZER)) is not None:
        config, params = inner, given.components[TOKENIZER]
    if not processes.run_on_primary((folder / "config.json").exists):
        folder.parent.mkdir(parents=True, exist_ok=True)
        proto = given.tokenizer.proto
        processes.run_on_primary(lambda: write_model_folder(folder, config, jax.device_get(params), proto, 0, {}))
    elif not _holds(folder, params, plugins):
        raise UserError(f"--workdir {folder.parent}: has another {name} than {component.path}; name another one")
    return params


def copied_text_encoder(config: Config, workdir: Path) -> Params:
    """Copies the frozen text encoder to the workdir and returns its parameters.

    Raises:
        UserError: if the workdir holds another one.
    """
    component, path = config.components[TEXT_ENCODER], workdir / frozen_text.FILE
    plugins = registry.packages(to_dict(config))
    if _is_gone(component, path):
        return frozen_text.read(path, plugins).params
    given = _text_encoder(component, plugins)
    if not processes.run_on_primary(path.exists):
        processes.run_on_primary(lambda: frozen_text.write(path, given))
    elif _text_key(config, frozen_text.read(path, plugins)) != _text_key(config, given):
        raise UserError(f"--workdir {workdir}: has another text encoder than {component.path}; name another one")
    return given.params


def _text_key(config: Config, frozen: frozen_text.FrozenText) -> dict[str, Any]:
    settings = frozen_text.settings(frozen.component)
    return data.text_cache_key(frozen.params, frozen.tokenizer, settings, config.text.length)


def _text_encoder(component: ComponentConfig, plugins: tuple[str, ...]) -> frozen_text.FrozenText:
    """The text encoder of a trained or pretrained model."""
    folder = Path(component.path)
    if is_pretrained(folder):
        return frozen_text.of_folder(folder, plugins)
    return frozen_text.of_model(load(folder, plugins=plugins))


def text_tokenizer(config: Config) -> bytes:
    """The serialized text tokenizer of the model that is named as the frozen text encoder."""
    component, plugins = config.components[TEXT_ENCODER], registry.packages(to_dict(config))
    folder = Path(component.path)
    return frozen_text.of_folder(folder, plugins).tokenizer if is_pretrained(folder) else read_text_tokenizer(folder)


def _holds(folder: Path, params: Params, plugins: tuple[str, ...]) -> bool:
    try:
        return params_digest(load(folder, plugins=plugins).params) == params_digest(params)
    except UserError:  # its training has no checkpoint yet
        return False


def trained(config: Config, workdir: Path) -> dict[str, Params]:
    """Parameters of the components in the workdir of a started training, by name."""
    plugins = registry.packages(to_dict(config))
    return {
        name: frozen_text.read(workdir / frozen_text.FILE, plugins).params
        if name == TEXT_ENCODER
        else load(workdir / name, plugins=plugins).params
        for name in config.separate_components()
    }


def codes(
    config: Config, workdir: Path, split: Split, params: Mapping[str, Params], repair: bool = False
) -> data.Source:
    """Returns the visual tokens of a split as a source, encoding the split if they are not cached.

    Once cached, neither the data set nor TensorFlow is needed. The primary process encodes. Each component of a mixture
    is cached separately, so that its weight does not change the codes.

    Args:
        params: of the visual tokenizers, by name.
        repair: encode corrupt shards again.

    Raises:
        UserError: if the cache holds the codes of another tokenizer or of other data.
    """
    folder = _cache_folder(config, workdir) / split
    if not config.data.mixture:
        return _codes(config, folder, split, params, repair)
    parts = {
        name: _codes(dataclasses.replace(config, data=part), folder / name, split, params, repair)
        for name, part in config.data.mixture.items()
    }
    return data.mix(parts, config.data, training=split == "train")


def _cache_folder(config: Config, workdir: Path) -> Path:
    return Path(config.tokens.cache or workdir / "tokens")


def code_folders(config: Config, workdir: Path) -> list[Path]:
    """The folders of the visual tokens of all splits and, of a mixture, of its components."""
    splits = [_cache_folder(config, workdir) / split for split in get_args(Split)]
    return [folder / name for folder in splits for name in config.data.mixture or [""]]


def _codes(config: Config, root: Path, split: Split, params: Mapping[str, Params], repair: bool) -> data.Source:
    tokenizer = config.component(TOKENIZER)
    assert tokenizer is not None
    visual, reference = jax.device_get((params[TOKENIZER], params.get(REFERENCE)))
    key = data.token_cache_key(visual, tokenizer, config, split, reference)
    folder = Path(processes.run_on_primary(lambda: str(_cache(root, key))))

    def encode() -> None:
        if not is_complete(folder, KIND, verify=repair):
            _encode(config, folder, key, split, params)

    processes.run_on_primary(encode)
    return data.open_tokens(folder, key)


def _encode(config: Config, folder: Path, key: Mapping[str, Any], split: Split, params: Mapping[str, Params]) -> None:
    """Writes the token cache of a split, computed on the devices of this process."""
    source = data.open_source(config.data, training=split == "train", seed=config.seed)
    placement = setup.local_placement(config)
    placed = jax.device_put(dict(params), placement.replicated)
    spec = models.find(config)
    assert spec.model_fns
    model_fns = spec.model_fns(config, setup.resolved_compute(config, placement))
    fields = tuple(dict.fromkeys(("image", model_fns.reference))) if model_fns.encode_reference else ("image",)

    def encode(params: Mapping[str, Params], images: Batch) -> dict[str, jax.Array]:
        codes = {"codes": model_fns.encode(params[TOKENIZER], images["image"])}
        if model_fns.encode_reference:
            codes["reference_codes"] = model_fns.encode_reference(params[REFERENCE], images[model_fns.reference])
        return codes

    compiled = jax.jit(encode, out_shardings=placement.batch)

    def encoded(*images: np.ndarray) -> dict[str, np.ndarray]:
        batch = placement.shard_batch(dict(zip(fields, images, strict=True)))
        arrays: dict[str, np.ndarray] = jax.device_get(compiled(placed, batch))
        return arrays

    data.write_tokens(folder, key, source, config, split, encoded, batch=config.evaluate.batch, fields=fields)


def _cache(folder: Path, key: Mapping[str, Any]) -> Path:
    """The cache folder of a split; each later choice of evaluation examples has its own."""
    cache = read_cache(folder, KIND)
    if cache is None or not cache.complete:
        return folder
    changed = {name: now for name, _, now in differences(cache.key, key)}
    if not changed or not all(name.startswith("data.evaluation_") for name in changed):
        return folder
    chosen = (str(key["data"].get(name, "")) for name in ("evaluation_split", "evaluation_examples"))
    return folder.with_name("-".join([folder.name, *filter(None, chosen)]))


def _add_text_features(config: Config, workdir: Path, sources: Sequence[data.Source], repair: bool) -> None:
    """Adds cached text features to the sources if the text encoder of the config is frozen.

    Captions that are not cached are encoded first.

    Raises:
        UserError: if the cache holds the features of another text encoder.
    """
    if TEXT_ENCODER not in config.components:
        return
    frozen = frozen_text.read(workdir / frozen_text.FILE, registry.packages(to_dict(config)))
    tokenizer, placement = data.load_tokenizer(frozen.tokenizer), setup.local_placement(config)
    params = jax.device_put(frozen.params, placement.replicated)
    encoder = frozen_text.encoder(frozen.component, setup.resolved_compute(config, placement))
    compiled = jax.jit(encoder, out_shardings=placement.batch)

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        text = tokenizer.encode(texts, config.text.length)
        return jax.device_get(compiled(params, placement.shard_batch({"text": text})["text"])), text != 0

    folder, key = _cache_folder(config, workdir) / "text", _text_key(config, frozen)

    def add_features() -> None:
        captions = itertools.chain.from_iterable(source.all_captions() for source in sources)
        features = data.cached_text_features(folder, key, captions, encode, config.evaluate.batch, repair)
        for source in sources:
            source.text_features = features

    processes.run_on_primary(add_features)
    if not processes.is_primary():
        add_features()  # from the complete cache


def sources(
    config: Config,
    workdir: Path,
    params: Mapping[str, Params],
    splits: Sequence[Split] = get_args(Split),
    repair: bool = False,
) -> list[data.Source]:
    """The training and evaluation sources of a config: its data set, or the codes and text features of it.

    Args:
        params: of the components, by name.
        repair: encode corrupt shards again.
    """
    if not setup.is_on_codes(config):
        found = [data.open_source(config.data, training=split == "train", seed=config.seed) for split in splits]
    else:
        found = [codes(config, workdir, split, params, repair) for split in splits]
    _add_text_features(config, workdir, found, repair)
    return found
