"""Configs of two stages by the commands: interrupted anywhere they end the same, and the workdir holds both models."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from runs import Mistake, Run, Start, assert_same_state, committed, metrics, noise, wait_for
from safetensors.numpy import load_file, save_file

from mmjax import data
from mmjax.cli import main
from mmjax.config import load_config, to_dict
from mmjax.engine import components
from mmjax.export.model_folder import FILES
from mmjax.files import write_json
from mmjax.train.workdir import read_config

CONFIG = "--config=configs/quickstart.py:tiny"
LOSSES = ("--config.evaluate.evaluators=losses", "--config.train.best_metric=")  # quicker than to sample
WORKDIR = {"checkpoints", "config.json", "evaluation", "metrics.jsonl", "report.html", "tensorboard", "tokenizer.model"}


@pytest.fixture(name="given", scope="module")
def with_a_tokenizer_that_is_gone(two_stages: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    base = tmp_path_factory.mktemp("given")
    named = shutil.copytree(two_stages / "visual_tokenizer", base / "tokenizer")
    settings = (*LOSSES, f"--config.components.visual_tokenizer={named}")
    done = run("train", CONFIG, *settings, "--workdir", base / "run")
    assert "quickstart: all steps done" in done.stdout and "quickstart-visual_tokenizer" not in done.stdout
    shutil.rmtree(named)
    return base / "run"


@pytest.fixture(name="exported", scope="module")
def exported_tokenizer(two_stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tokenizer"
    assert main(["export", f"--workdir={two_stages / 'visual_tokenizer'}", f"--out={folder}"]) == 0
    return folder


@pytest.fixture(name="another")
def another_tokenizer(exported: Path, tmp_path: Path) -> Path:
    """Of the same config with other parameters."""
    folder = shutil.copytree(exported, tmp_path / "another")
    params = load_file(folder / "model.safetensors")
    name = min(params)
    save_file({**params, name: params[name] + np.float32(1e-3)}, folder / "model.safetensors")
    return folder


@pytest.fixture(name="copy")
def changeable(two_stages: Path, tmp_path: Path) -> Path:
    return shutil.copytree(two_stages, tmp_path / "copy")


def shards(tokens: Path) -> dict[str, list[str]]:
    """The hashes of the cached tokens by split, once they are complete."""
    found = {folder.name: json.loads((folder / "index.json").read_text()) for folder in tokens.iterdir()}
    assert all(index["complete"] for index in found.values())
    return {name: [shard["sha256"] for shard in index["shards"]] for name, index in found.items()}


def test_leaves_what_the_contract_says(two_stages: Path) -> None:
    assert {path.name for path in two_stages.iterdir()} == WORKDIR | {"visual_tokenizer", "tokens"}
    assert {path.name for path in (two_stages / "visual_tokenizer").iterdir()} == WORKDIR
    assert shards(two_stages / "tokens").keys() == {"train", "evaluation"}
    for folder, metric in ((two_stages, "scenes/diversity"), (two_stages / "visual_tokenizer", "tokenizer/code_usage")):
        assert committed(folder) == [2, 4]
        rows = metrics(folder)
        assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4]
        assert metric in json.loads((folder / "evaluation" / "4.json").read_text())
        assert "data:image/png;base64," in (folder / "report.html").read_text()
    config_dict = read_config(two_stages)
    assert (
        config_dict.component("visual_tokenizer") == read_config(two_stages / "visual_tokenizer")
        and config_dict.name == "quickstart"
    )


def test_what_is_done_is_not_done_again(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [path for path in copy.rglob("*") if path.name not in ("report.html", "config.json")]
    before = {path: path.stat().st_mtime_ns for path in kept if path.is_file()}
    assert main(["train", CONFIG, f"--workdir={copy}"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{name}: step 4 of 4 is done already; report: {folder / 'report.html'}"
        for name, folder in (("quickstart-visual_tokenizer", copy / "visual_tokenizer"), ("quickstart", copy))
    ]
    assert noise(err) == [] and {path: path.stat().st_mtime_ns for path in before} == before


def test_interrupted_anywhere_it_goes_on_and_ends_the_same(
    two_stages: Path, tmp_path: Path, start: Start, run: Run
) -> None:
    tokenizer, tokens = tmp_path / "visual_tokenizer", tmp_path / "tokens"
    arguments = (CONFIG, "--workdir", tmp_path)

    def ctrl_c(workdir: Path) -> str:
        with start("train", *arguments) as process:
            wait_for(process, lambda: (workdir / "metrics.jsonl").exists() and bool(metrics(workdir)))
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=200)
        assert process.returncode == 130 and committed(workdir)[-1] < 4
        return out

    assert "quickstart-visual_tokenizer: stopped after step" in ctrl_c(tokenizer)
    assert not tokens.exists() and not (tmp_path / "config.json").exists()
    with start("prepare", *arguments) as process:
        wait_for(process, lambda: (tokens / "train" / "index.json").exists())
        process.kill()
        process.communicate()
    assert committed(tokenizer)[-1] == 4 and not (tokens / "evaluation").exists()
    prepared = run("prepare", *arguments).stdout.splitlines()[-1]
    assert prepared.startswith("quickstart: 64 training and 16 evaluation examples, ")
    assert prepared.endswith(f" text tokens; tokenizer: {tmp_path / 'tokenizer.model'}; visual tokens: {tokens}")
    assert (tmp_path / "tokenizer.model").read_bytes() == (two_stages / "tokenizer.model").read_bytes()
    assert shards(tokens) == shards(two_stages / "tokens") and not committed(tmp_path)
    assert "quickstart: stopped after step" in ctrl_c(tmp_path)
    run("train", *arguments)
    for one, other in ((tokenizer, two_stages / "visual_tokenizer"), (tmp_path, two_stages)):
        assert_same_state(one, other, 4)
        # Told to stop while it evaluates, it writes the metrics of the step before those of the evaluation.
        rows = [sorted(metrics(workdir), key=lambda row: (row["step"], row["split"])) for workdir in (one, other)]
        assert rows[0] == rows[1]


def test_a_tokenizer_that_was_given_is_copied(
    given: Path, two_stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one it was given was the same as that of the other workdir, and so is all that follows from it."""
    assert sorted(path.name for path in (given / "visual_tokenizer").iterdir()) == sorted(
        set(FILES) - {"tokenizer.json"}
    )
    assert shards(given / "tokens") == shards(two_stages / "tokens")
    assert_same_state(given, two_stages, 4)
    gone = given.parent / "tokenizer"
    settings = (*LOSSES, f"--config.components.visual_tokenizer={gone}")
    assert main(["train", CONFIG, *settings, f"--workdir={given}"]) == 0
    assert "quickstart: step 4 of 4 is done already" in capsys.readouterr().out


def test_a_workdir_whose_tokenizer_is_gone_is_complete(given: Path, tmp_path: Path, run: Run) -> None:
    expected = (given / "evaluation" / "4.json").read_text()
    (given / "evaluation" / "4.json").unlink()
    assert noise(run("evaluate", "--workdir", given).stderr) == []
    assert (given / "evaluation" / "4.json").read_text() == expected
    assert main(["export", f"--workdir={given}", f"--out={tmp_path / 'model'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(set(FILES) - {"tokenizer.json"})


def test_prepared_with_a_model_folder_and_a_cache_elsewhere(
    exported: Path, two_stages: Path, tmp_path: Path, run: Run
) -> None:
    settings = (f"--config.components.visual_tokenizer={exported}", f"--config.tokens.cache={tmp_path / 'cache'}")
    done = run("prepare", CONFIG, *settings, "--workdir", tmp_path / "run")
    assert noise(done.stderr) == [] and done.stdout.endswith(f"; visual tokens: {tmp_path / 'cache'}\n")
    assert shards(tmp_path / "cache") == shards(two_stages / "tokens")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json",
        "visual_tokenizer",
        "tokenizer.model",
    }


def test_another_tokenizer_is_refused(two_stages: Path, another: Path, tmp_path: Path, mistake: Mistake) -> None:
    before = (two_stages / "config.json").read_bytes()
    command = ("train", CONFIG, "--workdir", two_stages)
    line = mistake(*command, f"--config.components.visual_tokenizer={another}")
    assert line == f"--workdir {two_stages}: has another visual_tokenizer than {another}; name another one"
    line = mistake(*command, "--config.components.visual_tokenizer.config.model.levels=8,5")
    assert line.startswith(f"--workdir {two_stages}: ")
    assert "components.visual_tokenizer.config.model.levels was [8, 6, 5]" in line
    half = shutil.copytree(two_stages / "visual_tokenizer", tmp_path / "half" / "visual_tokenizer")
    shutil.rmtree(half / "checkpoints")
    line = mistake("train", CONFIG, f"--config.components.visual_tokenizer={another}", "--workdir", half.parent)
    assert line == f"--workdir {half.parent}: has another visual_tokenizer than {another}; name another one"
    assert (two_stages / "config.json").read_bytes() == before and not (half.parent / "tokens").exists()


def test_a_copied_tokenizer_is_not_trained_on(given: Path, mistake: Mistake) -> None:
    line = mistake("train", CONFIG, *LOSSES, "--workdir", given)
    assert line.startswith(f"--workdir {given}: ") and "--config.components.visual_tokenizer=DIR" in line


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_a_cache_of_another_tokenizer_is_refused(
    command: str, two_stages: Path, another: Path, tmp_path: Path, mistake: Mistake
) -> None:
    settings = (f"--config.components.visual_tokenizer={another}", f"--config.tokens.cache={two_stages / 'tokens'}")
    line = mistake(command, CONFIG, *settings, "--workdir", tmp_path / "run")
    assert line.startswith(f"{two_stages / 'tokens' / 'train'}: holds other visual tokens: tokenizer.params was ")


def test_a_tokenizer_that_is_none(exported: Path, tmp_path: Path, mistake: Mistake) -> None:
    command = ("train", CONFIG, "--workdir", tmp_path / "run")
    line = mistake(*command, "--config.components.visual_tokenizer=/nowhere")
    assert line == "/nowhere: no config.json there; name a workdir of mmjax train or a folder of mmjax export"
    write_json(tmp_path / "direct" / "config.json", {"config": to_dict(load_config("configs/scenes_direct.py"))})
    line = mistake(*command, f"--config.components.visual_tokenizer={tmp_path / 'direct'}")
    assert line.startswith("components.visual_tokenizer.config.model.kind: ") and "direct_generator" in line
    line = mistake(*command, f"--config.components.visual_tokenizer={exported}", "--config.data.size=64")
    assert line == "data.size: must be 32, as of the visual tokenizer, not 64"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluating_other_examples_leaves_the_cache_alone(copy: Path, run: Run) -> None:
    before, expected = shards(copy / "tokens"), (copy / "evaluation" / "4.json").read_text()
    run("evaluate", "--workdir", copy, "--config.data.evaluation_examples=8")
    assert shards(copy / "tokens").keys() == {"train", "evaluation", "evaluation-8"}
    assert (copy / "evaluation" / "4.json").read_text() != expected
    shutil.rmtree(copy / "tokens" / "evaluation-8")
    run("evaluate", "--workdir", copy)
    assert shards(copy / "tokens") == before and (copy / "evaluation" / "4.json").read_text() == expected


def test_encoded_once_the_data_set_is_not_needed(two_stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object, **named: object) -> None:
        raise AssertionError("the data set was opened")

    monkeypatch.setattr(data, "open_source", gone)
    config = read_config(two_stages)
    training, held_out = components.sources(config, two_stages, components.trained(config, two_stages))
    assert (training.size, held_out.size) == (64, 16)


def test_a_damaged_cache_is_told_and_prepared_again(copy: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    expected = shards(copy / "tokens")
    shard = next((copy / "tokens" / "train").glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["train", CONFIG, f"--workdir={copy}"]) == 2
    told = "its bytes are not those that were written; run mmjax prepare to repair it"
    assert capsys.readouterr().err == f"mmjax: {shard}: {told}\n"
    run("prepare", CONFIG, "--workdir", copy)
    assert shards(copy / "tokens") == expected and shard.read_bytes() == content


def test_an_evaluation_depends_neither_on_its_batch_nor_on_the_devices(copy: Path, two_stages: Path) -> None:
    settings = ("--config.evaluate.batch=24", "--config.evaluate.evaluators=losses")  # sampling takes seconds
    assert main(["evaluate", f"--workdir={copy}", *settings]) == 0
    found, expected = (json.loads((run / "evaluation" / "4.json").read_text()) for run in (copy, two_stages))
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-5) and "loss" in found
