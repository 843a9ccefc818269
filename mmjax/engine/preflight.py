"""Checks, before the first step of a training, what its later stages and its end need."""

from collections.abc import Iterator
from pathlib import Path

import jax

from mmjax import data, models
from mmjax.config import Config
from mmjax.data.shard_cache import is_complete
from mmjax.data.tokens import KIND
from mmjax.engine import components, setup, trainer
from mmjax.export.load import load_params, read_text_tokenizer
from mmjax.files import check_writable
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.train import checkpoint, storage
from mmjax.train.workdir import check_config
from mmjax.types import UserError


def check(config: Config, workdir: Path) -> None:
    """Checks all stages of a training by writing where they will write and opening what they will read.

    The data of a stage that trains at once, or has begun already, are opened by the training itself.

    Raises:
        UserError: for the first problem.
    """
    stages = list(_stages(config, workdir))
    for stage, folder, _ in reversed(stages):  # the whole config before its parts
        check_config(folder, stage)
        _check_places(stage, folder)
    known: list[tuple[object, ...]] = []
    for number, (stage, folder, name) in enumerate(stages):
        if (number or stage.components) and not (folder / "config.json").exists():
            try:
                _check_init_from(stage, folder)
                _check_data(stage, folder, (stage.data, stage.text) in known)
            except UserError as error:
                raise UserError(f"{name}{error}") from None
        known.append((stage.data, stage.text))


def _stages(config: Config, workdir: Path, name: str = "") -> Iterator[tuple[Config, Path, str]]:
    """The configs that are trained for one, in order, with their workdirs and the prefixes of their fields."""
    for each, component in sorted(config.components.items(), key=lambda item: not item[1].path):
        if component.config is not None and not component.path:
            yield from _stages(component.config, workdir / each, f"{name}components.{each}.config.")
    if config.pretraining is not None:
        yield from _stages(config.pretraining, workdir / "pretraining", f"{name}pretraining.")
    yield config, workdir, name


def check_results(workdir: Path) -> None:
    """Raises UserError where an evaluation and the report of a workdir cannot be written."""
    check_writable(workdir / "evaluation", folder=True)
    check_writable(workdir / "report.html")


def _check_places(config: Config, workdir: Path) -> None:
    check_results(workdir)
    for file in ("config.json", "metrics.jsonl", "tokenizer.model"):
        check_writable(workdir / file)
    checkpoints = checkpoint.folder(workdir, config.train.checkpoints)
    storage.check_writable(checkpoints)
    if "://" not in str(checkpoints):
        check_writable(Path(checkpoints).parent / checkpoint.DAMAGED, folder=True)
    check_writable(workdir / "tensorboard", folder=True)
    if setup.is_on_codes(config):
        for cache in components.code_folders(config, workdir):
            if not is_complete(cache, KIND):  # which may be read-only
                check_writable(cache, folder=True)


def _check_init_from(config: Config, workdir: Path) -> None:
    """Checks the text tokenizer and the parameters of the model that training starts from."""
    if not config.train.init_from or data.tokenizer_file(workdir).exists():
        return
    given, encoder = read_text_tokenizer(config.train.init_from), config.components.get(TEXT_ENCODER)
    if encoder is not None and Path(encoder.path).exists():  # else only its copy is left
        setup.check_text_tokenizers(given, components.text_tokenizer(config))
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    trainer.match_params(config, load_params(config.train.init_from), shapes)


def _check_data(config: Config, workdir: Path, has_tokenizer: bool) -> None:
    """Checks the data of a config, the length of its training, and that its captions give a text tokenizer.

    Args:
        has_tokenizer: whether another stage trains the same text tokenizer.
    """
    examples, captions = 1, None
    caches = components.code_folders(config, workdir) if setup.is_on_codes(config) else []
    if not (caches and all(is_complete(cache, KIND) for cache in caches)):
        source, _ = (data.open_source(config.data, training=training, seed=config.seed) for training in (True, False))
        examples, captions = source.size, source.all_captions
    if captions or config.train.steps:  # else the length follows from the examples
        trainer.schedule(config, examples)
    given = config.train.init_from or config.pretraining or TEXT_ENCODER in config.components
    if captions and not (given or has_tokenizer or data.tokenizer_file(workdir).exists()):
        data.train_tokenizer(captions(), config.text.vocabulary)
