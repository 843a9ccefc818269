"""Checkpoints: exact, committed, which ones are kept, and errors."""

import gc
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mmjax.config import MeshConfig
from mmjax.parallel import Placement, make_mesh
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.state import State, make_state
from mmjax.types import TransientError, UserError

# Of a restoring that failed on the way, Orbax leaves reads behind that find their event loop closed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_what_is_left_behind():
    """Here, where it is known of, and not in some later test."""
    yield
    gc.collect()


def state_of(step: int, width: int = 7, ema: bool = True) -> State:
    tx = optax.adam(0.1)
    state = make_state(lambda key: {"w": jax.random.normal(key, (16, width))}, tx, step, ema)()
    return state.replace(step=jnp.int32(step))


def shapes_of(state, sharding=None):
    sharding = sharding or Placement(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])).replicated
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def saved(tmp_path, *steps_and_metrics, keep=2, best="-loss", width=7):
    checkpoints = Checkpoints(tmp_path, keep, best)
    for step, metrics in steps_and_metrics:
        checkpoints.save(state_of(step, width), metrics)
        checkpoints.wait()
    return checkpoints


def test_round_trip_is_exact_on_any_mesh(tmp_path):
    checkpoints = saved(tmp_path, (3, {}))
    restored = checkpoints.restore(shapes_of(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(3))
    spread = jax.sharding.NamedSharding(make_mesh(MeshConfig(8, 1, 1)), jax.sharding.PartitionSpec())
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(shapes_of(state_of(0), spread)), state_of(3))
    checkpoints.close()


def test_arrays_are_saved_uncompressed_and_compressed_ones_restored(tmp_path):
    zeros = state_of(3, WIDE)
    zeros = zeros.replace(params=jax.tree.map(jnp.zeros_like, zeros.params))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(zeros, {})
    checkpoints.close()
    path = tmp_path / "checkpoints" / "3" / "state"

    def size() -> int:
        return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())

    assert size() > sum(leaf.nbytes for leaf in jax.tree.leaves(zeros))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=True)) as handler:
        tree = handler.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        read = handler.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
        handler.save(path, ocp.args.PyTreeSave(read), force=True)
    assert size() < sum(leaf.nbytes for leaf in jax.tree.leaves(zeros))
    checkpoints = Checkpoints(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(shapes_of(zeros)), zeros)
    np.testing.assert_array_equal(checkpoints.restore_params()[1]["w"], zeros.ema["w"])
    checkpoints.close()


def test_restore_params_gives_the_ema(tmp_path):
    checkpoints = saved(tmp_path, (3, {}))
    state = state_of(4)
    checkpoints.save(state.replace(ema={"w": state.params["w"] + 1}), {})
    checkpoints.wait()
    step, params = checkpoints.restore_params()
    assert step == 4
    np.testing.assert_array_equal(params["w"], state.params["w"] + 1)
    checkpoints.save(state_of(5, ema=False), {})
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore_params(5)[1]["w"], state_of(5).params["w"])
    checkpoints.close()


@pytest.mark.parametrize(("best", "kept"), [("-loss", [2, 4, 5]), ("accuracy", [1, 4, 5]), ("", [4, 5])])
def test_newest_and_best_are_kept(tmp_path, best, kept):
    metrics = [{"loss": loss, "accuracy": 1 / (i + 1)} for i, loss in enumerate([0.5, 0.2, 0.4, 0.3])]
    checkpoints = saved(tmp_path, *enumerate(metrics, 1), (5, {}), keep=2, best=best)
    assert checkpoints.steps() == kept
    checkpoints.close()
    assert Checkpoints(tmp_path, 2, best).steps() == kept


def test_best_step_and_improves(tmp_path):
    checkpoints = saved(tmp_path, (1, {"loss": 0.5}), (2, {"loss": 0.3}), (3, {}), best="-loss", keep=3)
    assert checkpoints.best_step() == 2
    assert checkpoints.restore_params("best")[0] == 2
    assert checkpoints.improves({"loss": 0.2}) and not checkpoints.improves({"loss": 0.3})
    assert not checkpoints.improves({"loss": float("nan")}) and not checkpoints.improves({})
    checkpoints.close()
    none = saved(tmp_path / "none", (1, {}))
    assert none.best_step() is None and none.improves({"loss": 9.0})
    with pytest.raises(UserError, match="none of the checkpoints was evaluated"):
        none.restore_params("best")
    none.close()


def test_nonfinite_metric_is_never_best(tmp_path):
    checkpoints = saved(tmp_path, (1, {"loss": 0.5}), (2, {"loss": float("nan")}), (3, {"loss": 0.6}), (4, {}), (5, {}))
    assert checkpoints.steps() == [1, 4, 5]
    checkpoints.close()


def test_uncommitted_checkpoint_is_ignored(tmp_path):
    saved(tmp_path, (3, {})).close()
    (tmp_path / "checkpoints" / "9").mkdir()
    (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [3]
    checkpoints.close()


WIDE = 211  # arrays large enough to lie in the files as they are: Orbax guards small ones itself


def flip(path, rng):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def data_files(tmp_path, step):
    """The files that hold the parameters and their averages."""
    files = [path for path in (tmp_path / "checkpoints" / str(step) / "state").rglob("*") if path.parent.name == "d"]
    return [path for path in sorted(files) if path.stat().st_size > 10_000]


def test_any_flipped_bit_is_detected(tmp_path, caplog):
    """Each ends with the values that were written, or with those of the step before and a warning."""
    expected = {step: state_of(step, WIDE) for step in (3, 4)}
    rng, noticed = np.random.default_rng(0), 0
    shapes = shapes_of(expected[3])
    saved(tmp_path / "sound", (3, {}), (4, {}), width=WIDE).close()
    for number in range(10):
        folder = shutil.copytree(tmp_path / "sound", tmp_path / str(number))
        files = sorted(path for path in (folder / "checkpoints" / "4").rglob("*") if path.is_file())
        files = [path for path in files if path.stat().st_size]
        flip(data_files(folder, 4)[-1] if number % 2 else files[rng.integers(len(files))], rng)
        caplog.clear()
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore(shapes)
        step = int(restored.step)
        jax.tree.map(np.testing.assert_array_equal, restored, expected[step])
        if step == 3:
            noticed += 1
            assert "checkpoints/4: is damaged (" in caplog.text and "resuming from step 3" in caplog.text
            assert checkpoints.steps() == [3] and (folder / "checkpoints-damaged" / "4").is_dir()
            checkpoints.save(expected[4], {})  # whose place is free again
            checkpoints.wait()
            jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(shapes), expected[4])
        checkpoints.close()
    assert noticed > 3


def test_damaged_params_are_skipped(tmp_path, caplog):
    saved(tmp_path, (3, {}), (4, {}), width=WIDE).close()
    for path in data_files(tmp_path, 4):
        content = bytearray(path.read_bytes())
        for place in range(len(content) // 8, len(content), len(content) // 8):  # a bit in each part of the file
            content[place] ^= 4
        path.write_bytes(content)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    step, params = checkpoints.restore_params()
    assert step == 3 and "checkpoints/4: is damaged (ema/w: " in caplog.text
    np.testing.assert_array_equal(params["w"], state_of(3, WIDE).ema["w"])
    with pytest.raises(UserError, match=r"checkpoints/4: cannot be restored: ema/w: "):
        checkpoints.restore_params(4)
    checkpoints.close()
    assert (tmp_path / "checkpoints" / "4").is_dir()  # reading moves nothing


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:5000]), Path.unlink])
def test_truncated_or_deleted_file_is_skipped(damage, tmp_path):
    saved(tmp_path, (3, {}), (4, {}), width=WIDE).close()
    for path in data_files(tmp_path, 4):
        damage(path)
    checkpoints = Checkpoints(tmp_path)
    assert int(checkpoints.restore(shapes_of(state_of(0, WIDE))).step) == 3
    checkpoints.close()


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("the bucket is gone"),
        ValueError("UNAVAILABLE: all connections broken; Error opening 4/state"),
        OSError("HTTP 503: Service Unavailable"),
    ],
)
def test_transient_error_is_not_damage(error, tmp_path, monkeypatch):
    saved(tmp_path, (3, {}), (4, {})).close()
    checkpoints = Checkpoints(tmp_path)

    def read(*arguments, **options):
        raise error

    monkeypatch.setattr(checkpoints.reader, "restore", read)
    with pytest.raises(TransientError, match=r"checkpoints/4: could not be read: ") as told:
        checkpoints.restore(shapes_of(state_of(0)))
    assert told.value.status == 1 and checkpoints.steps() == [3, 4]
    monkeypatch.undo()
    assert int(checkpoints.restore(shapes_of(state_of(0))).step) == 4
    checkpoints.close()


def test_nothing_is_quarantined_if_all_are_damaged(tmp_path):
    saved(tmp_path, (3, {}), (4, {}), width=WIDE).close()
    for step in (3, 4):
        for path in data_files(tmp_path, step):
            path.unlink()
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r"checkpoints/4: cannot be restored: .*, nor can any step before it \(1\)"):
        checkpoints.restore(shapes_of(state_of(0, WIDE)))
    checkpoints.close()
    assert not (tmp_path / "checkpoints-damaged").exists()


def test_nonfinite_state_is_not_saved(tmp_path):
    checkpoints = saved(tmp_path, (3, {}))
    state = state_of(4)
    broken = state.opt_state[0]._replace(nu={"w": state.params["w"].at[3, 5].set(jnp.inf)})
    with pytest.raises(UserError, match=r"step 4 is not saved: opt_state/0/nu/w"):
        checkpoints.save(state.replace(opt_state=(broken, *state.opt_state[1:])), {})
    assert checkpoints.steps() == [3]
    checkpoints.close()


def test_restore_errors(tmp_path):
    checkpoints = saved(tmp_path, (3, {}))
    with pytest.raises(UserError, match="no checkpoint of step 4; there are 3"):
        checkpoints.restore_params(4)
    with pytest.raises(UserError, match=r"cannot be restored: ema/w is \(16, 7\), and \(16, 5\) in the config"):
        checkpoints.restore(shapes_of(state_of(0, width=5)))
    checkpoints.close()
    empty = Checkpoints(tmp_path / "empty")
    with pytest.raises(UserError, match="no checkpoint yet"):
        empty.restore_params()
    empty.close()
