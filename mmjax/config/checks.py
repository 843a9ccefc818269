"""Checks of combinations of fields."""

from collections.abc import Callable
from typing import Any

from mmjax import registry
from mmjax.config.data_fields import DataConfig
from mmjax.config.fields import Config
from mmjax.config.schema import require
from mmjax.types import UserError


def check(config: Config) -> None:
    """Raises UserError for the first invalid combination, also in nested configs."""
    for name, component in config.components.items():
        require(
            bool(component.path) or component.config is not None,
            f"components.{name}: name a trained model, as in --config.components.{name}=DIR, or give the config of one "
            "to train first",
        )
    check_nested(config, check)
    check_data(config.data)
    _check_evaluation(config)
    _check_losses(config)
    _check_training(config)
    _check_model(config)


def check_nested(config: Config, check: Callable[[Config], Any], given: bool = True) -> None:
    """Checks the configs that are nested in a config, so that errors name their fields in full.

    Args:
        given: also those of components that are trained already.
    """
    inner = {
        f"components.{name}.config": each.config for name, each in config.components.items() if given or not each.path
    }
    for name, nested in {"pretraining": config.pretraining, **inner}.items():
        try:
            if nested is not None:
                check(nested)
        except UserError as error:
            raise UserError(f"{name}.{error}") from None


def check_data(data: DataConfig, name: str = "data") -> None:
    """Raises UserError for the first invalid combination; `name` is the field of the data in its config."""
    require(data.resize >= data.size, f"{name}.resize: {data.resize} is smaller than {name}.size, {data.size}")
    source = registry.find("source", data.source, f"{name}.source")
    for field in ("mixture", "options"):
        allowed = not getattr(data, field) or field in source.settings
        require(allowed, f"{name}.{field}: is not for {name}.source={data.source}")
    require(
        bool(data.root) or not source.needs_root,
        f"{name}.root: {data.source} needs the folder of the data set, as in --config.{name}.root=DIR",
    )
    clips = data.frames == 1 or source.gives_clips
    require(clips, f"{name}.frames: {data.source} gives no clips of {data.frames} frames; set it to 1")
    source.check(data, name)


def _check_model(config: Config) -> None:
    spec = registry.find("model", config.model.kind, "model.kind")
    kind, takes, outputs = f"model.kind={config.model.kind}", ", ".join(spec.components), spec.outputs(config)
    for name in config.components:
        require(name in spec.components, f"components.{name}: is not for {kind}, which takes {takes or 'none'}")
    for name, term in config.losses.items():
        for needed in registry.find("loss", term.kind, f"losses.{name}.kind").needs:
            gives = ", ".join(outputs)
            require(needed in outputs, f"losses.{name}: needs {needed} of the model, and {kind} gives {gives}")
    spec.check(config)


def _check_evaluation(config: Config) -> None:
    require(
        bool(config.evaluate.prompts) and all("{}" in prompt for prompt in config.evaluate.prompts),
        f"evaluate.prompts: needs at least one, each with {{}} where the name of a class goes, not "
        f"{list(config.evaluate.prompts)}",
    )
    require(
        config.text_decoding.beams == 1 or config.text_decoding.top_p == 0,
        "text_decoding.beams, text_decoding.top_p: beam search draws nothing at random; set one of them",
    )


def _check_losses(config: Config) -> None:
    require(bool(config.losses), "losses: name at least one, as in {'mean_squared_error': {'weight': 1.0}}")
    start, train_from = config.discriminator.start, config.discriminator.train_from
    require(start >= train_from, f"discriminator.start: must not be before discriminator.train_from, {train_from}")
    require(len(config.discriminator.widths) > 0, "discriminator.widths: needs at least one width")
    specs = {name: registry.find("loss", term.kind, f"losses.{name}.kind") for name, term in config.losses.items()}
    adversarial = [name for name, spec in specs.items() if spec.adversarial]
    require(
        len(adversarial) < len(specs),
        f"losses: {', '.join(adversarial)} alone show the model no original; add mean_absolute_error",
    )
    for name, spec in specs.items():
        others = {output for other, each in specs.items() if other != name for output in each.needs}
        for output in spec.beside:
            such = " or ".join(kind for kind, each in registry.table("loss").items() if output in each.needs)
            require(output in others, f"losses.{name}: needs another loss that trains {output}, such as {such}")
        if spec.check:
            spec.check(config.losses[name], config)


def _check_training(config: Config) -> None:
    train, optimizer = config.train, config.optimizer
    require(
        train.skip_grad_spikes == 0 or train.skip_grad_spikes > 1,
        f"train.skip_grad_spikes: must be above 1, or 0 to skip none, not {train.skip_grad_spikes:g}",
    )
    require(
        "://" not in train.checkpoints or train.checkpoints.startswith("gs://"),
        f"train.checkpoints: must be a folder or a bucket, gs://BUCKET/FOLDER, not {train.checkpoints}",
    )
    require("://" not in config.tokens.cache, f"tokens.cache: must be a folder, not {config.tokens.cache}")
    require((train.steps > 0) != (train.epochs > 0), "train.steps, train.epochs: set one of the two above 0")
    require(
        train.batch % optimizer.grad_accum_steps == 0,
        f"optimizer.grad_accum_steps: {optimizer.grad_accum_steps} does not divide train.batch, {train.batch}",
    )
    if config.pretraining is not None:
        require(not train.init_from, "pretraining: is what training starts from, and so is train.init_from; name one")
        require(config.pretraining.model == config.model, "pretraining.model: must be that of the config itself")
    _check_lora(config)
    axes = [config.mesh.data, config.mesh.fsdp, config.mesh.model]
    require(
        all(axis > 0 or axis == -1 for axis in axes) and axes.count(-1) <= 1,
        f"mesh: each axis must be above 0, and at most one -1 (all devices left), not {axes}",
    )


def _check_lora(config: Config) -> None:
    lora, train = config.lora, config.train
    require(
        lora.rank > 0 or lora == type(lora)(), "lora.rank: must be above 0, as in --config.lora.rank=8, not 0: no LoRA"
    )
    require(
        lora.rank == 0 or bool(train.init_from) or config.pretraining is not None,
        "lora: adds to a trained model; name it, as in --config.train.init_from=WORKDIR",
    )
    require(
        lora.rank == 0 or config.optimizer.kind != "muon",
        "optimizer.kind: muon is for whole kernels, of which a LoRA trains none; choose adamw",
    )
    require(len(lora.kernels) > 0, "lora.kernels: name at least one, as in **/attention/(q|k|v|out)/kernel")
    fresh = [name for name, source in train.init_rename.items() if source == "-"]
    require(
        lora.rank == 0 or not fresh,
        f"train.init_rename.{fresh[0] if fresh else ''}: leaves fresh what a LoRA does not train; leave it out",
    )
