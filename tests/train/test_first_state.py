"""Training that starts from parameters of another model: what is taken, what is fresh, what cannot be."""

import dataclasses
import logging
from typing import Any

import jax
import numpy as np
import pytest

from mmjax import models
from mmjax.config import Config, resolve
from mmjax.engine import setup, trainer
from mmjax.types import UserError, leaf_name

MODEL = {"kind": "vision_language", "patch": 8, "width": 16, "heads": 2, "layers": 1, "text_layers": 1,
         "decoder_layers": 1, "fusion_layers": 1, "embedding": 8}  # fmt: skip


def config_of(*terms: str, rename: dict[str, str] | None = None, **model: Any) -> Config:
    return resolve({
        "name": "mine",
        "text": {"length": 7, "vocabulary": 300},
        "model": MODEL | model,
        "losses": {name: {} for name in terms},
        "mesh": {"data": 2, "fsdp": 2, "model": 2},
        "optimizer": {"kind": "adam", "ema_decay": 0.9},
        "train": {"steps": 7, "init_from": "elsewhere", "init_rename": rename or {}},
    })  # fmt: skip


def random_params(config: Config) -> dict[str, Any]:
    """Parameters that no initialization gives."""
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(7, 1, leaf.shape).astype(leaf.dtype), shapes)


def named(tree: Any) -> dict[str, np.ndarray]:
    return {leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(jax.device_get(tree))}


_BUILT: dict[str, tuple[setup.Experiment, trainer.Training, dict[str, np.ndarray]]] = {}


def built(config: Config) -> tuple[setup.Experiment, trainer.Training, dict[str, np.ndarray]]:
    """Compiled once for each model, whatever of the rest differs."""
    key = f"{config.model} {config.losses}"
    if key not in _BUILT:
        experiment = setup.build(config)
        training = trainer.build(experiment, 7)
        _BUILT[key] = experiment, training, named(training.make_state().params)
    experiment, training, fresh = _BUILT[key]
    return dataclasses.replace(experiment, config=config), training, fresh


def started(config: Config, given: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Any]:
    """The parameters that training starts from, those that it would have started from, and the state."""
    experiment, training, fresh = built(config)
    state = trainer.first_state(given, experiment, training)
    assert jax.tree.map(lambda x: x.sharding, state.params) == jax.tree.map(
        lambda x: x.sharding, training.shapes.params
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.ema), jax.device_get(state.params))
    assert int(state.step) == 0
    return named(state.params), fresh, state


@pytest.fixture(name="log")
def captured_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    caplog.set_level(logging.INFO)
    return lambda: caplog.text + "".join(capfd.readouterr())


def test_what_has_the_same_name_is_taken_and_the_rest_is_fresh_and_told(log: Any) -> None:
    given = random_params(config_of("captioning", "masked_language_modeling"))  # a text encoder, but no shared space
    found, fresh, _ = started(config_of("contrastive"), given)
    theirs = named(given)
    for name, value in found.items():
        taken = name.startswith(("vision/", "text/"))
        np.testing.assert_array_equal(value, (theirs if taken else fresh)[name], err_msg=name)
        assert taken == (name in theirs)
    told = log()
    both = [name for name in found if name in theirs]
    assert f"mine: starts from {len(both)} of {len(found)} parameters" in told
    for group in ("image_pooling", "text_projection/kernel", "log_scale"):
        assert group in told.partition("fresh: ")[2], told
    assert "vision" not in told.partition("fresh: ")[2].splitlines()[0]


def test_all_of_a_model_of_the_same_kind(log: Any) -> None:
    given = random_params(config_of("captioning"))
    found, _, _ = started(config_of("captioning"), given)
    jax.tree.map(np.testing.assert_array_equal, found, named(given))
    assert f"{len(found)} of {len(found)}" in log()


def test_parameters_may_have_other_names_there_or_stay_fresh() -> None:
    given = random_params(config_of("captioning"))
    renamed = {"encoder": given["vision"], "decoder": given["decoder"]}
    found, fresh, _ = started(config_of("captioning", rename={"vision": "encoder", "decoder/stack": "-"}), renamed)
    theirs = named(given)
    for name, value in found.items():
        expected = fresh if name.startswith("decoder/stack/") else theirs
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    # A prefix is one of whole names: "dec" is none of "decoder".
    found, _, _ = started(config_of("captioning", rename={"dec": "-", "vision/": "-"}), given)
    jax.tree.map(np.testing.assert_array_equal, found, theirs)


def test_without_parameters_all_is_fresh() -> None:
    found, fresh, _ = started(config_of("captioning"), None)
    jax.tree.map(np.testing.assert_array_equal, found, fresh)


def test_another_shape_is_an_error_that_names_both_and_a_way_out() -> None:
    given = random_params(config_of("captioning", patch=4))
    with pytest.raises(UserError) as error:
        started(config_of("captioning"), given)
    message = str(error.value)
    assert message.startswith("train.init_from: vision/patches/kernel of elsewhere ") and "\n" not in message
    assert "(4, 4, 3, 16)" in message and "(8, 8, 3, 16)" in message
    assert "--config.train.init_rename.vision=-" in message
    started(config_of("captioning", rename={"vision/patches": "-"}), given)


def test_nothing_to_take_is_an_error() -> None:
    given = {"other": {"kernel": np.ones((3, 5), np.float32)}}
    with pytest.raises(UserError, match=r"^train\.init_from: elsewhere .*other/kernel.*train\.init_rename"):
        started(config_of("captioning"), given)
    with pytest.raises(UserError, match=r"^train\.init_from: "):
        started(config_of("captioning", rename={"vision": "-", "decoder": "-"}), random_params(config_of("captioning")))


def test_the_order_of_what_is_given_does_not_matter() -> None:
    given = random_params(config_of("captioning"))
    backwards = {name: given[name] for name in sorted(given, reverse=True)}
    jax.tree.map(np.testing.assert_array_equal, started(config_of("captioning"), backwards)[0], named(given))


def test_the_names_that_are_set_on_the_command_line() -> None:
    config = resolve(
        {"train": {"steps": 1}}, {"train.init_rename.vision/stack": "encoder/stack", "train.init_rename.x": "-"}
    )
    assert config.train.init_rename == {"vision/stack": "encoder/stack", "x": "-"}
    assert dataclasses.replace(config.train).init_rename == config.train.init_rename
