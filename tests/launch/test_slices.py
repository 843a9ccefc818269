"""Topologies, and what is checked before a machine costs anything."""

import argparse
import re

import pytest
import training
from slices import GENERATIONS, parse_topology
from training import bucket_folder, check_fits, training_command

from mmjax.config import Config, load_config
from mmjax.types import UserError

TOKENIZER = "components.visual_tokenizer.config"


def masked(**overrides: str) -> Config:
    return load_config("configs/coco_masked.py:size=256", {"data.root": "gs://bucket/data", **overrides})


@pytest.mark.parametrize(
    ("topology", "accelerator_type", "hosts"),
    [  # as Cloud TPU's pages of each generation list them
        ("v4:2x2x4", "v4-32", 4),
        ("v4:8x16x16", "v4-4096", 512),
        ("v5e:2x2", "v5litepod-4", 1),
        ("v5e:16x16", "v5litepod-256", 64),
        ("v5p:4x4x4", "v5p-128", 16),
        ("v5p:16x16x24", "v5p-12288", 1536),
        ("v6e:4x4", "v6e-16", 4),
    ],
)
def test_published_slices(topology: str, accelerator_type: str, hosts: int) -> None:
    slices = parse_topology(topology)
    assert (slices.accelerator_type, slices.hosts) == (accelerator_type, hosts)


def test_every_accelerator_type_means_one_topology() -> None:
    for name, generation in GENERATIONS.items():
        chips = [parse_topology(f"{name}:{shape}").chips for shape in generation.shapes]
        assert len(set(chips)) == len(chips)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e-16", "v5e-16: unknown; "),
        ("v3:4x4", "v3:4x4: unknown"),
        ("h100:8", "h100:8: not TPUs; one of v4, v5e, v5p, v6e, tpu7x"),
        ("v5e:4x16", "v5e comes as 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
        ("0xv5e:4x4", "0xv5e:4x4: unknown"),
        ("2xv5e:2x2", "each slice has one host"),
    ],
)
def test_unknown_topologies(topology: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_topology(topology)


@pytest.mark.parametrize(
    ("overrides", "devices", "message"),
    [
        ({"mesh.fsdp": "3"}, 16, "mesh: data=-1 x fsdp=3 x model=1 does not multiply to the 16 devices"),
        ({"mesh.data": "4", "mesh.fsdp": "2"}, 16, "mesh: data=4 x fsdp=2 x model=1 does not multiply"),
        ({"train.batch": "250"}, 16, "train.batch: 250 does not split over 16 devices; take a multiple of 16"),
        ({f"{TOKENIZER}.mesh.fsdp": "3"}, 16, f"{TOKENIZER}.mesh: data=-1 x fsdp=3"),
        ({"mesh.slice": "4"}, 32, "mesh.slice: 4, but the devices are in 2 slices"),
        ({f"{TOKENIZER}.mesh.slice": "4"}, 32, f"{TOKENIZER}.mesh.slice: 4, but the devices are in 2 slices"),
        ({"mesh.fsdp": "32"}, 32, "mesh: slice=2 x data=-1 x fsdp=32 x model=1 does not multiply to the 32 devices"),
    ],
)
def test_configs_that_do_not_fit(overrides: dict[str, str], devices: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_fits(masked(**overrides), devices, devices // 16)


def test_configs_that_fit() -> None:
    assert parse_topology("2xv5e:4x4").devices == 32
    given = {"components.visual_tokenizer": "gs://bucket/tokenizer", f"{TOKENIZER}.train.batch": "3"}
    check_fits(masked(**given), 16)  # it is not trained
    check_fits(masked(**{"mesh.model": "8", "train.batch": "2"}), 16)
    check_fits(masked(**{"mesh.data": "2", "mesh.fsdp": "8", "train.batch": "16"}), 16)
    check_fits(masked(**{"mesh.slice": "2", "mesh.fsdp": "16", "train.batch": "32"}), 32, 2)


def test_workdirs() -> None:
    assert bucket_folder("gs://my-bucket_1/runs/masked/") == ("my-bucket_1", "runs/masked")


ARGUMENTS = argparse.Namespace(config="configs/coco_masked.py:size=256", workdir="gs://bucket/runs/masked/")


@pytest.mark.parametrize("elsewhere", ["gs://other/masked", ""])
def test_checkpoints_lie_where_the_user_says(elsewhere: str) -> None:
    data, override = "--config.data.root=gs://bucket/data", f"--config.train.checkpoints={elsewhere}"
    slices = parse_topology("v5e:4x4")
    assert training_command(ARGUMENTS, [data], slices)[3:] == [
        "--workdir=/gcs/bucket/runs/masked",
        data,
        "--config.train.checkpoints=gs://bucket/runs/masked/checkpoints",
    ]
    assert training_command(ARGUMENTS, [data, override], slices)[3:] == [
        "--workdir=/gcs/bucket/runs/masked",
        data,
        override,
    ]


def test_checkpoints_lie_where_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config_dict = masked(**{"train.checkpoints": "gs://other/masked"})
    monkeypatch.setattr(training, "load_config", lambda *_: config_dict)
    command = training_command(ARGUMENTS, [], parse_topology("v5e:4x4"))
    assert command[3:] == ["--workdir=/gcs/bucket/runs/masked"]
