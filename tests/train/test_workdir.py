"""A workdir belongs to one config and one process."""

import json
import os
import re
from pathlib import Path

import pytest

from mmjax.config import Config, resolve
from mmjax.train.workdir import check_overrides, open_workdir, read_batch_size_history, read_config, workdir_lock
from mmjax.types import UserError

CONFIG = {"train": {"steps": 5}}


def test_config_round_trip(tmp_path):
    config = resolve({"train": {"steps": 5}, "model": {"decoder_widths": [16, 8]}, "name": "mine"})
    open_workdir(tmp_path / "a" / "b", config)
    assert read_config(tmp_path / "a" / "b") == config
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text())["versions"]["jax"]


def test_other_config_is_refused_but_more_steps_are_not(tmp_path):
    open_workdir(tmp_path, resolve(CONFIG))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    open_workdir(tmp_path, resolve({"train": {"steps": 9, "log_every": 3}, "evaluate": {"samples": 3}}))
    with pytest.raises(UserError, match=r"another config: model.width was 128 and now is 64; name another --workdir"):
        open_workdir(tmp_path, resolve({"train": {"steps": 5}, "model": {"width": 64}}))
    assert read_config(tmp_path).model.width == 128


def test_resume_with_another_batch_size(tmp_path: Path) -> None:
    def with_batch(batch: int) -> Config:
        return resolve({"train": {"steps": 5, "batch": batch}, "pretraining": {"train": {"steps": 1, "batch": batch}}})

    assert read_batch_size_history(tmp_path) == []
    open_workdir(tmp_path, with_batch(8))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    open_workdir(tmp_path, with_batch(16))  # as mmjax prepare does, which trains no step
    assert (read_config(tmp_path).train.batch, read_batch_size_history(tmp_path)) == (16, [[0, 8]])
    open_workdir(tmp_path, with_batch(16), [[0, 8], [3, 16]])
    open_workdir(tmp_path, with_batch(16))
    assert read_batch_size_history(tmp_path) == [[0, 8], [3, 16]]


def test_batch_size_history_of_config_json(tmp_path: Path) -> None:
    open_workdir(tmp_path, resolve({"train": {"steps": 5, "batch": 24}}))
    assert read_batch_size_history(tmp_path) == [[0, 24]]
    written = json.loads((tmp_path / "config.json").read_text())
    for wrong in ([], [[3, 8]]):
        (tmp_path / "config.json").write_text(json.dumps(written | {"batches": wrong}))
        with pytest.raises(UserError, match=rf"config.json: batches: .* not {re.escape(repr(wrong))}"):
            read_batch_size_history(tmp_path)


def test_any_config_is_accepted_before_the_first_checkpoint(tmp_path):
    tokenizer = tmp_path / "tokenizer.model"
    open_workdir(tmp_path, resolve(CONFIG))
    tokenizer.write_bytes(b"made by prepare")
    open_workdir(tmp_path, resolve({"train": {"steps": 5}, "optimizer": {"learning_rate": 0.1}}))
    assert read_config(tmp_path).optimizer.learning_rate == 0.1
    assert tokenizer.exists()
    open_workdir(tmp_path, resolve({"train": {"steps": 5}, "text": {"vocabulary": 500}}))
    assert not tokenizer.exists()  # it was of other data


def test_eval_overrides(tmp_path):
    check_overrides({"data.root": "x", "mesh.data": "1", "evaluate.batch": "3", "data.evaluation_split": "val2014"})
    with pytest.raises(UserError, match=r"--config.model.width: cannot be overridden"):
        check_overrides({"model.width": "64"})
    open_workdir(tmp_path, resolve(CONFIG))
    assert read_config(tmp_path, {"evaluate.batch": "3"}).evaluate.batch == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"config": {"model": {"wdth": 3}, "train": {"steps": 1}}}'])
def test_broken_config(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config.json: ") as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), workdir_lock(tmp_path / "file"):
        pass


def test_bucket_is_not_a_workdir() -> None:
    told = r"^--workdir gs:/bucket/run: must be a folder; mount the bucket"
    with pytest.raises(UserError, match=told), workdir_lock(Path("gs://bucket/run")):
        pass


def test_workdir_lock_is_exclusive(tmp_path: Path) -> None:
    with workdir_lock(tmp_path):
        assert (tmp_path / "training.lock").exists()
        told = rf"^--workdir {tmp_path}: is in use by process {os.getpid()} on .*; wait"
        with pytest.raises(UserError, match=told), workdir_lock(tmp_path):
            pass
        with workdir_lock(tmp_path / "tokenizer"):  # of another one inside of it
            (tmp_path / "tokenizer" / "kept").touch()
        with workdir_lock(tmp_path / "empty"):  # which was not there, and nothing came of it
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "tokenizer"]
    with workdir_lock(tmp_path):
        pass
