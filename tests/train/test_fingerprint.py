"""Fingerprints: their definition, independence of the mesh, and sensitivity to any bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import MeshConfig
from mmjax.parallel import Placement, make_mesh
from mmjax.train import fingerprint


def by_hand(leaf: np.ndarray) -> int:
    """The sum in Python's own integers."""
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[leaf.dtype.itemsize]
    numbers = leaf.reshape(-1).view(kind).tolist()
    return sum((u + 1) * (2 * i * 2654435761 + 1) for i, u in enumerate(numbers)) % 2**32


LEAVES = {
    "float32": np.random.default_rng(0).normal(size=(16, 7, 3)).astype(np.float32),
    "bfloat16": np.asarray(jnp.linspace(-3, 3, 35, dtype=jnp.bfloat16).reshape(5, 7)),
    "columns": np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32),
    "int32": np.arange(-5, 8, dtype=np.int32),
    "bool": np.array([True, False, True]),
    "scalar": np.array(1.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}


def on(
    mesh: MeshConfig, tree: dict[str, np.ndarray], **specs: PartitionSpec
) -> tuple[dict[str, jax.Array], NamedSharding]:
    devices = jax.devices()[: max(mesh.data * mesh.fsdp * mesh.model, 1)]
    placement = Placement(make_mesh(mesh, devices))
    where = {name: NamedSharding(placement.mesh, specs.get(name, PartitionSpec())) for name in tree}
    return jax.device_put(tree, where), placement.replicated


def test_fingerprint_equals_the_definition() -> None:
    tree, whole = on(MeshConfig(1, 1, 1), LEAVES)
    numbers, finite = fingerprint.summarize(tree, whole)
    expected = [by_hand(LEAVES[name]) for name in fingerprint.names(LEAVES)]
    assert np.asarray(numbers).tolist() == expected and np.asarray(finite).all()
    assert [fingerprint.of_array(LEAVES[name]) for name in sorted(LEAVES)] == expected


def test_fingerprint_does_not_depend_on_the_sharding() -> None:
    one = fingerprint.summarize(*on(MeshConfig(1, 1, 1), LEAVES))[0]
    spread = on(MeshConfig(1, 4, 2), LEAVES, float32=PartitionSpec("fsdp"), columns=PartitionSpec(None, "model"))
    two = fingerprint.summarize(*spread)[0]
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int32", "scalar"])
def test_fingerprint_detects_any_flipped_bit(name: str) -> None:
    leaf = LEAVES[name]
    rng = np.random.default_rng(1)
    for _ in range(50):
        flipped = leaf.copy()
        flipped.reshape(-1).view(np.uint8)[rng.integers(leaf.nbytes)] ^= 1 << rng.integers(8)
        assert fingerprint.of_array(flipped) != fingerprint.of_array(leaf)


@pytest.mark.parametrize("mesh", [MeshConfig(1, 1, 1), MeshConfig(1, 4, 2)])
def test_nonfinite_leaf_is_identified(mesh: MeshConfig) -> None:
    tree = {"a": np.ones(3, np.float32), "b": np.array([[1, 1], [1, np.nan]], np.float32), "c": np.float32([np.inf])}
    finite = fingerprint.summarize(*on(mesh, tree, b=PartitionSpec(None, "model")))[1]
    assert np.asarray(finite).tolist() == [True, False, False]
