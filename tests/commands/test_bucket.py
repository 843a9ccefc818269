"""Checkpoints in a bucket, through the file systems that read and write them there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bucket
import pytest
from bucket import Bucket
from runs import ROOT

from mmjax.train import checkpoint
from mmjax.types import UserError

CHILD = """
import logging, sys
import jax, jax.numpy as jnp, numpy as np, optax
from mmjax.config import MeshConfig
from mmjax.parallel import Placement, make_mesh
from mmjax.train import checkpoint, storage
from mmjax.train.state import make_state
from mmjax.types import UserError

def state_of(step):
    state = make_state(lambda key: {"w": jax.random.normal(key, (64, 67))}, optax.adam(0.1), step, True)()
    return state.replace(step=jnp.int32(step))

logging.basicConfig(format="%(message)s")
storage.SLOW_SECONDS, steps = float(sys.argv[1]), map(int, sys.argv[2:])
replicated = Placement(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])).replicated
shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), state_of(0))
try:
    checkpoints = checkpoint.Checkpoints(None, best="-loss", at="gs://bucket/run/checkpoints")
    for step in steps:
        checkpoints.save(state_of(step), {"loss": 1 / step})
    checkpoints.wait()
    restored = checkpoints.restore(shapes)
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(int(restored.step)))
    params = checkpoints.restore_params()
    np.testing.assert_array_equal(params[1]["w"], restored.params["w"])
    print("steps", *checkpoints.steps(), "best", checkpoints.best_step(), "restored", restored.step, params[0])
    checkpoints.close()
except UserError as error:
    sys.exit(str(error))
"""


@pytest.fixture(name="made")
def made_here(tmp_path: Path) -> Iterator[Bucket]:
    with bucket.serving(tmp_path) as made:
        yield made


def run(made: Bucket, *command: Any, status: int = 0) -> tuple[str, str]:
    environment = {**os.environ, **made.environment, "XLA_FLAGS": os.environ["MMJAX_TESTS_XLA_FLAGS"]}
    command = (sys.executable, *map(str, command))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def flip_a_bit(made: Bucket, prefix: str) -> None:
    """In the middle of the largest object, which holds arrays."""
    name = max((name for name in made.objects if name.startswith(prefix)), key=lambda name: len(made.objects[name][1]))
    content = bytearray(made.objects[name][1])
    content[len(content) // 2] ^= 1
    assert made.put(name, bytes(content), {})


@pytest.mark.timeout(900)
def test_a_bucket_is_as_a_disk(made: Bucket) -> None:
    out, _ = run(made, "-c", CHILD, 30, 1, 2)
    assert out == "steps 1 2 best 2 restored 2 2\n"
    assert {"run/checkpoints/1/commit_success.txt", "run/checkpoints/2/commit_success.txt"} <= set(made.objects)

    flip_a_bit(made, "run/checkpoints/2/state/")
    made.delay = 0.02
    out, err = run(made, "-c", CHILD, 0.01)
    assert out == "steps 1 best 1 restored 1 1\n"
    assert "gs://bucket/run/checkpoints: not read after 0 s; still trying\n" in err
    assert "gs://bucket/run/checkpoints/2: is damaged (" in err
    assert "and was moved to gs://bucket/run/checkpoints-damaged/2; resuming from step 1\n" in err
    assert not any(name.startswith("run/checkpoints/2/") for name in made.objects)

    made.refuses = 403
    _, err = run(made, "-c", CHILD, 30, status=1)
    assert err.splitlines()[-1].startswith("gs://bucket/run/checkpoints: the checkpoints cannot be opened: ")
    assert "Traceback" not in err and "refused" in err


def test_what_a_bucket_needs_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lacks_storage(*arguments: Any, **options: Any) -> None:
        raise ImportError("cannot import name 'storage' from 'google.cloud' (unknown location)")

    monkeypatch.setattr(checkpoint, "_Manager", lacks_storage)
    with pytest.raises(UserError, match=r"cannot import name 'storage' .*pip install '\.\[gcs\]'"):
        checkpoint.Checkpoints(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_evaluating_and_exporting(made: Bucket, tmp_path: Path) -> None:
    config = ("--config=configs/scenes_direct.py:tiny", "--config.train.steps=12", "--config.train.checkpoint_every=4")
    train = ("train", *config, "--workdir", tmp_path / "run", "--config.train.checkpoints=gs://bucket/run")
    out, _ = run(made, "-m", "mmjax", *train, "--stop-at=8")
    assert "stopped after step 8" in out
    flip_a_bit(made, "run/8/state/")
    out, err = run(made, "-m", "mmjax", *train)
    assert "gs://bucket/run/8: is damaged" in err and "resuming from step 4" in out and "all steps done" in out
    out, _ = run(made, "-m", "mmjax", "evaluate", "--workdir", tmp_path / "run", "--step=best")
    assert "reconstruction/psnr" in out
    run(made, "-m", "mmjax", "export", "--workdir", tmp_path / "run", "--out", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
