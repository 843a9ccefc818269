"""Names of topologies, known and unknown."""

import importlib.util

import pytest

from mmjax.plan import topology
from mmjax.plan.topology import CHIPS
from mmjax.types import UserError


@pytest.mark.parametrize(
    ("name", "kind", "shape", "parts", "chips", "devices"),
    [
        ("v5e:4x4", "v5e", (4, 4), 1, 16, 16),
        ("2xv5e:16x16", "v5e", (16, 16), 2, 512, 512),
        ("v5p:4x4x4", "v5p", (4, 4, 4), 1, 64, 64),
        ("tpu7x:2x2x1", "tpu7x", (2, 2, 1), 1, 4, 8),
        ("4xh100:8", "h100", (8,), 4, 32, 32),
    ],
)
def test_parse(name: str, kind: str, shape: tuple[int, ...], parts: int, chips: int, devices: int) -> None:
    found = topology.parse(name)
    assert (found.chip.kind, found.shape, found.parts, found.chips, found.devices) == (
        kind,
        shape,
        parts,
        chips,
        devices,
    )
    assert str(found) == name


@pytest.mark.parametrize("name", ["v5e-16", "v9:4x4", "v5e:4x", "0xv5e:4x4", "", "v5e:4x4x4", "v5p:4x4", "h100:16"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UserError, match=r"known: .*4x4|known: 1, 2, 4, 8|Known: .*16x16.*h100") as error:
        topology.parse(name)
    assert "\n" not in str(error.value)


def test_missing_libtpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install '\.\[plan\]'"):
        topology.devices(topology.parse("v5e:4x4"))


def test_rates_agree_with_jax() -> None:
    """JAX's own table of what kernels reckon with, in other units: within 2%, of v5p's HBM within 12%."""
    from jax._src.pallas.mosaic.tpu_info import chip_version_from_device_kind
    from jax.experimental.pallas import tpu as pallas

    kinds = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "tpu7x": "TPU7x"}
    for kind, device in kinds.items():
        version = chip_version_from_device_kind(device)
        assert version is not None
        cores = version.num_physical_tensor_cores_per_chip
        theirs = pallas.get_tpu_info_for_chip(version, 1)
        chip = CHIPS[kind]
        assert theirs.bf16_ops_per_second * cores == pytest.approx(chip.flops, rel=0.02)
        assert theirs.mem_bw_bytes_per_second * cores == pytest.approx(
            chip.hbm_rate, rel=0.13 if kind == "v5p" else 0.03
        )
        assert theirs.hbm_capacity_bytes * cores == pytest.approx(chip.hbm_bytes, rel=0.02)


def test_every_chip_has_its_sources() -> None:
    assert all(chip.sources and all(url.startswith("https://") for url in chip.sources) for chip in CHIPS.values())
