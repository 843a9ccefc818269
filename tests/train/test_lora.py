"""LoRA: the kernels that are added to, the sum, shardings, and a training of nothing but the added matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from mmjax import models
from mmjax.config import Config, LoraConfig, MeshConfig, resolve
from mmjax.engine import trainer
from mmjax.export.model_folder import flatten
from mmjax.parallel import Placement, make_mesh, match_rules
from mmjax.train import lora
from mmjax.train.state import make_state
from mmjax.train.step import make_step
from mmjax.types import UserError

SHAPES = {
    "layers/block/self_attention/q/kernel": (3, 6, 2, 5),
    "layers/block/self_attention/out/kernel": (3, 2, 5, 6),
    "layers/block/mlp_in/kernel": (3, 6, 7),
    "layers/block/mlp_in/bias": (3, 7),
    "local/kernel": (3, 3, 4, 5),
    "pooling/attention/v/kernel": (6, 2, 5),
}
ALL = ("**/kernel",)


def tree(named: dict[str, Any]) -> Any:
    whole: dict[str, Any] = {}
    for name, leaf in named.items():
        *modules, last = name.split("/")
        node = whole
        for module in modules:
            node = node.setdefault(module, {})
        node[last] = leaf
    return whole


def random_tree(seed: int, shapes: dict[str, tuple[int, ...]]) -> Any:
    rng = np.random.default_rng(seed)
    return tree({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


PARAMS = random_tree(0, SHAPES)


def config_of(**changes: Any) -> Config:
    return resolve({
        "text": {"length": 7, "vocabulary": 300},
        "model": {"kind": "vision_language", "patch": 8, "width": 16, "heads": 2, "layers": 1, "text_layers": 1},
        "losses": {"contrastive": {}},
        "optimizer": {"kind": "adam", "learning_rate": 0.01, "ema_decay": 0.5},
        "lora": {"rank": 2, "alpha": 3},
        "train": {"steps": 7, "batch": 8, "init_from": "elsewhere"},
    } | changes)  # fmt: skip


def test_the_pattern_of_the_default_is_all_of_attention() -> None:
    found = lora.chosen(LoraConfig(rank=1), PARAMS)
    assert set(found) == {name for name in SHAPES if "attention/" in name}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kernels": ("**/atention/q/kernel",)}, ["lora.kernels", "'**/atention/q/kernel'", "local/kernel", "mlp_in"]),
        ({"kernels": ("**/kernel", "**/bias")}, ["lora.kernels", "'**/bias'"]),
        ({"kernels": ("**/(kernel",)}, ["lora.kernels", "'**/(kernel'", "regular expression"]),
        ({"rank": 6, "kernels": ("local/kernel",)}, ["lora.rank: 6", "local/kernel", "36 x 5"]),
    ],
)
def test_patterns_and_ranks_that_are_mistakes(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(UserError) as error:
        lora.init(LoraConfig(**{"rank": 2, **changes}), PARAMS, jax.random.key(0))
    message = str(error.value)
    assert all(part in message for part in named) and "\n" not in message
    assert "bias" not in message.partition("has ")[2]  # which is no kernel


def test_the_sum_is_that_of_each_layer_by_itself() -> None:
    added = lora.init(LoraConfig(rank=2, kernels=ALL), PARAMS, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, lora.merged(PARAMS, added, 0.7), PARAMS)  # nothing at first
    rng = np.random.default_rng(1)
    added = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), added)
    found, before, sides = flatten(lora.merged(PARAMS, added, 0.7)), flatten(PARAMS), flatten(added)
    inputs = {"q": 6, "out": 10, "mlp_in": 6, "local": 36, "v": 6}
    for name, kernel in before.items():
        if not name.endswith("kernel"):
            np.testing.assert_array_equal(found[name], kernel)
            continue
        count, layers = inputs[name.split("/")[-2]], 3 if "block" in name else 1
        a, b = (sides[f"{name}/{side}"].astype(np.float64) for side in "ab")
        a, b = a.reshape(layers, count, 2), b.reshape(layers, 2, -1)
        whole = [kernel.reshape(layers, count, -1)[i] + 0.7 * a[i] @ b[i] for i in range(layers)]
        np.testing.assert_allclose(found[name], np.stack(whole).reshape(kernel.shape), rtol=1e-5, atol=1e-5)


def test_a_starts_with_outputs_of_the_size_of_the_inputs() -> None:
    params = tree({"kernel": np.zeros((997, 11), np.float32)})
    added = lora.init(LoraConfig(rank=7, kernels=("kernel",)), params, jax.random.key(0))
    assert float(np.std(added["kernel"]["a"])) == pytest.approx(997**-0.5, rel=0.05)
    assert added["kernel"]["b"].shape == (7, 11) and not np.any(added["kernel"]["b"])


def test_shardings_are_those_of_the_kernels() -> None:
    config = config_of()
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    placed = match_rules(shapes, models.sharding_rules(config), make_mesh(MeshConfig(2, 2, 2)))
    found = flatten(lora.shardings(config.lora, shapes, placed))
    block = "vision/stack/block/self_attention"
    assert found[f"{block}/q/kernel/a"].spec == PartitionSpec(None, "fsdp", None)
    assert found[f"{block}/q/kernel/b"].spec == PartitionSpec(None, None, "model", None)
    assert found[f"{block}/out/kernel/a"].spec == PartitionSpec(None, "model", None, None)
    assert found[f"{block}/out/kernel/b"].spec == PartitionSpec(None, None, "fsdp")


def test_the_state_is_that_of_the_added_matrices() -> None:
    config, placement = config_of(), Placement(make_mesh(MeshConfig(2, 2, 2)))
    state = trainer.state_shapes(config, placement, 7)
    base = trainer.base_shapes(config, placement)
    named = flatten(state.params)
    assert {name.rpartition("/")[0] for name in named} == set(lora.chosen(config.lora, base))
    count = sum(leaf.size for leaf in named.values())
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) <= 2 * count + 2
    assert sum(leaf.size for leaf in jax.tree.leaves(state.ema)) == count
    block = "vision/stack/block/self_attention/q/kernel"
    assert named[f"{block}/b"].sharding.spec == PartitionSpec(None, None, "model", None)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == named[f"{block}/b"].shape]
    assert moments and all(leaf.sharding.spec[2] == "model" for leaf in moments)
    assert flatten(base)[block].sharding.spec == PartitionSpec(None, "fsdp", "model", None)


class Squares:
    """The squared error of a linear model."""

    def prepare(self, batch: Any, key: Any) -> dict[str, Any]:
        return {"x": batch["x"], **({"base": batch["base"]} if "base" in batch else {})}

    def terms(self, outputs: Any, batch: Any) -> dict[str, jax.Array]:
        return {"squares": jnp.sum((outputs["y"] - batch["y"]) ** 2, axis=-1)}

    def loss(self, terms: Any) -> jax.Array:
        return terms["squares"]


def test_a_step_moves_b_along_the_gradient_of_the_kernel() -> None:
    rng = np.random.default_rng(2)
    base = {"first": {"kernel": rng.normal(size=(3, 5))}, "second": {"kernel": rng.normal(size=(5, 2))}}
    base = jax.tree.map(lambda leaf: leaf.astype(np.float32), base)
    batch = {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=(8, 2)), "mask": np.ones(8, bool)}
    batch = {name: value if name == "mask" else value.astype(np.float32) for name, value in batch.items()}

    def apply(params: Any, x: Any) -> dict[str, jax.Array]:
        return {"y": x @ params["first"]["kernel"] @ params["second"]["kernel"], "batch_stats/mean": x.mean()}

    config, tx = LoraConfig(rank=2, alpha=3.0, kernels=("first/kernel",)), optax.sgd(0.1)
    state = make_state(lambda key: lora.init(config, base, key), tx, 0, False)()
    step = jax.jit(make_step(lora.make_apply(apply, lora.scale(config)), Squares(), tx))
    after, metrics = step(state, batch, {lora.BASE: base})
    old, new = (each.params["first"]["kernel"] for each in (state, after))
    residual = batch["x"] @ base["first"]["kernel"] @ base["second"]["kernel"] - batch["y"]
    assert float(metrics["loss"]) == pytest.approx(float((residual**2).sum(-1).mean()), rel=1e-5)
    gradient = batch["x"].T @ (2 * residual / 8) @ base["second"]["kernel"].T  # of the kernel
    np.testing.assert_allclose(new["b"], -0.1 * 1.5 * np.asarray(old["a"]).T @ gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(new["a"], old["a"])  # its gradient is 0 where b is 0
    assert set(flatten(after.params)) == {"first/kernel/a", "first/kernel/b"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"train": {"steps": 7}}, "lora: "),
        ({"lora": {"alpha": 8.0}}, "lora.rank: "),
        ({"lora": {"rank": 8, "kernels": ()}}, "lora.kernels: "),
        ({"lora": {"rank": -1}}, "lora.rank: "),
        ({"optimizer": {"kind": "muon"}}, "optimizer.kind: muon"),
        ({"lora": {"rank": 8, "alpha": float("nan")}}, "lora.alpha: "),
        ({"train": {"steps": 7, "init_from": "x", "init_rename": {"text": "-"}}}, "train.init_rename.text: "),
    ],
)
def test_configs_that_are_mistakes(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as error:
        config_of(**changes)
    assert str(error.value).startswith(field) and "\n" not in str(error.value)


def test_a_model_without_some_of_the_parameters_is_refused() -> None:
    config = config_of()
    shapes = flatten(jax.eval_shape(lambda: models.init(config, jax.random.key(0))))
    given = {name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items() if name != "log_scale"}
    with pytest.raises(UserError, match=r"^train\.init_from: elsewhere has no log_scale, "):
        trainer.match_params(config, given, tree(dict(shapes)))
