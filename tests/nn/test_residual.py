"""Residual blocks on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import MeshConfig
from mmjax.nn.compute import Compute, Partitioner
from mmjax.nn.convolution import ResidualBlock
from mmjax.parallel import Placement, make_mesh


def test_gradients_on_eight_devices_equal_one():
    """A size at which the compiler, left alone, lays the second convolution out so that gradients come out wrong."""
    x = jax.random.normal(jax.random.key(0), (16, 4, 4, 16))
    params = ResidualBlock().init(jax.random.key(1), x)["params"]

    def gradient(params, x, partitioner):
        block = ResidualBlock(compute=Compute(partitioner=partitioner))
        return jax.grad(lambda p: jnp.sum(jnp.sin(block.apply({"params": p}, x))))(params)

    placement = Placement(make_mesh(MeshConfig(2, 2, 2)))
    kernels = NamedSharding(placement.mesh, PartitionSpec(None, None, "fsdp", "model"))
    shardings = jax.tree.map(lambda p: kernels if p.ndim == 4 else placement.replicated, params)
    partitioner = Partitioner(placement.with_sharding_constraint, placement.shard_map)
    spread = jax.jit(
        lambda p, x: gradient(p, x, partitioner), in_shardings=(shardings, placement.batch), out_shardings=shardings
    )
    alone = jax.jit(lambda p, x: gradient(p, x, Partitioner()))(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), spread(params, x), alone)
