"""How a model is computed on each platform, and that it is no part of what the model is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import models
from mmjax.config import ComputeConfig, MeshConfig, resolve
from mmjax.models import resolve_compute
from mmjax.nn.compute import Partitioner
from mmjax.parallel import Placement, make_mesh
from mmjax.types import UserError

# What "auto", and the unroll of 0, stand for: dtype, attention, convolution, dense, unroll.
AUTO = {
    "cpu": ("float32", "xla", "matmul", "flat", 0),
    "gpu": ("bfloat16", "xla", "native", "native", 1),
    "tpu": ("bfloat16", "splash", "native", "native", 1),
}


@pytest.mark.parametrize("platform", sorted(AUTO))
def test_auto_is_chosen_by_the_platform(platform: str) -> None:
    found = resolve_compute(ComputeConfig(), platform)
    assert (found.dtype.name, found.attention, found.convolution, found.dense, found.unroll) == AUTO[platform]
    assert (found.remat, found.remat_policy) == (False, "nothing")


@pytest.mark.parametrize("platform", sorted(AUTO))
def test_what_is_given_is_kept(platform: str) -> None:
    partitioner = Partitioner(lambda x: x, lambda f: f)
    for given in (("float32", "xla", "native", "flat"), ("bfloat16", "xla", "matmul", "native")):
        config = ComputeConfig(*given, remat=True, remat_policy="dots", unroll=3)  # type: ignore[arg-type]
        found = resolve_compute(config, platform, partitioner)
        assert (found.dtype.name, found.attention, found.convolution, found.dense) == given
        assert found.unroll == 3
        assert (found.remat, found.remat_policy, found.partitioner) == (True, "dots", partitioner)


@pytest.mark.parametrize("platform", sorted(AUTO))
@pytest.mark.parametrize(("kernel", "only"), [("xla", ""), ("cudnn", "gpu"), ("splash", "tpu")])
def test_a_kernel_that_the_platform_has_not_is_told(platform: str, kernel: str, only: str) -> None:
    config = ComputeConfig("bfloat16", kernel)  # type: ignore[arg-type]
    if only in ("", platform):
        assert resolve_compute(config, platform).attention == kernel
        return
    with pytest.raises(UserError, match=rf"^compute\.attention: {kernel} ") as error:
        resolve_compute(config, platform)
    assert "\n" not in str(error.value)


def test_cudnn_computes_in_16_bits() -> None:
    with pytest.raises(UserError, match=r"^compute\.attention: cudnn .*compute\.dtype"):
        resolve_compute(ComputeConfig("float32", "cudnn"), "gpu")


def test_the_platform_is_that_of_the_mesh() -> None:
    assert Placement(make_mesh(MeshConfig(), jax.devices("cpu")[:4])).platform == "cpu"


@pytest.mark.parametrize("kind", ["direct_generator", "visual_tokenizer"])
def test_how_it_is_computed_changes_no_parameter_and_nothing_beyond_rounding(kind: str) -> None:
    small = {
        "width": 12,
        "heads": 3,
        "text_layers": 1,
        "vision_layers": 1,
        "fusion_layers": 2,
        "decoder_widths": (5, 7),
    }
    model = small if kind == "direct_generator" else {"widths": (5, 7), "levels": (3, 5)}
    config = resolve({"train": {"steps": 1}, "model": {"kind": kind} | model, "text": {"length": 7}})
    params = jax.jit(lambda: models.init(config, jax.random.key(0)))()
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(1, 300, (2, *leaf.shape[1:]))
        if leaf.dtype == jnp.int32
        else rng.uniform(-1, 1, (2, *leaf.shape[1:]))
        for name, leaf in models.inputs(config).items()
    }
    inputs = {name: jnp.asarray(value, models.inputs(config)[name].dtype) for name, value in inputs.items()}
    found = {}
    for platform in ("cpu", "gpu"):  # but for attention a TPU is as a GPU
        compute = resolve_compute(ComputeConfig(dtype="float32", attention="xla", remat=platform == "gpu"), platform)
        module = models.build(config, compute)
        theirs = jax.eval_shape(lambda m=module: m.init(jax.random.key(0), **inputs)["params"])
        assert jax.tree.map(lambda x: (x.shape, x.dtype), theirs) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
        found[platform] = jax.jit(lambda p, m=module: m.apply({"params": p}, **inputs)["image"])(params)
    np.testing.assert_allclose(found["gpu"], found["cpu"], atol=2e-5)
