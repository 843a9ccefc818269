"""A damaged small file beside the state of a checkpoint closes neither it nor the others."""

import gc
import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmjax.train.checkpoint import Checkpoints

DAMAGED = (
    b"",
    b'{"loss": 1.',
    b"\xff\x00",
    b"[1]",
    b"[" * 100_000,
    b'{"loss": "x"}',
    b'{"loss": 1' + b"0" * 999 + b"}",
)


def opened(workdir: Path) -> tuple[list[int], int | None, int]:
    """The steps, the best one, and the one whose parameters are read."""
    checkpoints = Checkpoints(workdir, best="-loss", read_only=True)
    try:
        return checkpoints.steps(), checkpoints.best_step(), checkpoints.restore_params()[0]
    finally:
        checkpoints.close()


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_metrics_that_are_damaged_are_left_out(content: bytes, workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workdir / "checkpoints" / "4" / "metrics" / "metrics").write_bytes(content)
    assert opened(workdir) == ([2, 4], 2, 4)
    (told,) = caplog.messages
    assert told.startswith(f"{workdir.resolve()}/checkpoints/4/metrics: ") and "\n" not in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=4)
@given(content=st.binary(max_size=30) | st.sampled_from(DAMAGED))
def test_metadata_of_a_step_are_not_needed(content: bytes, workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (workdir / "checkpoints" / "4" / "_CHECKPOINT_METADATA").write_bytes(content)
    steps, _, restored = opened(workdir)
    assert (steps, restored, caplog.messages) == ([2, 4], 4, [])


# Orbax leaves coroutines behind where a read fails.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "_sharding"])
def test_a_step_with_a_damaged_state_is_passed_over_with_one_line(
    name: str, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workdir / "checkpoints" / "4" / "state" / name).write_bytes(b"[")
    with caplog.at_level(logging.WARNING):
        assert opened(workdir)[2] == 2
    (told,) = caplog.messages
    assert "checkpoints/4" in told and "\n" not in told
    gc.collect()  # the coroutines, while they are ignored


def test_a_huge_file_beside_the_arrays_is_not_read(workdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (workdir / "checkpoints" / "4" / "state" / "_sharding").open("ab") as file:
        file.truncate(6 << 30)  # sparse
    assert opened(workdir)[2] == 2
    (told,) = caplog.messages
    assert "_sharding is larger than 64 MiB" in told and "\n" not in told


def test_a_step_without_metrics_is_there(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "4" / "metrics")
    assert opened(workdir) == ([2, 4], 2, 4)
