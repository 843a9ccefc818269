import argparse
import configparser
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import mmjax
from mmjax.commands import doctor

ROOT = Path(__file__).parents[2]


def test_prints_versions_devices_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(argparse.Namespace()) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["jax"].split()[1] == jax.__version__
    assert lines["cpu"].split()[1:] == ["8", "x", "cpu"]
    assert "GB in" in lines["free"]
    assert "pytest" in lines["test"]


def test_missing_extra_says_how_to_get_it(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    doctor.run(argparse.Namespace())
    text = capsys.readouterr().out
    assert "missing; pip install '.[wandb]' adds logging" in text
    assert "tensorflow        not installed" in text
    assert f"mmjax             {mmjax.__version__}, run from its source" in text


def test_device_that_cannot_start_is_told_in_a_line(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> list[object]:
        raise RuntimeError("Unable to initialize backend 'cuda'\nsecond line")

    monkeypatch.setattr(jax, "devices", broken)
    assert doctor.run(argparse.Namespace()) == 0
    text = capsys.readouterr().out
    assert "Unable to initialize backend 'cuda'" in text and "second line" not in text


def test_the_version_has_one_source() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: mmjax.__version__"


def test_table_has_every_extra_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert list(doctor.EXTRAS) == list(setup["options.extras_require"])


def test_does_not_import_tensorflow() -> None:
    program = (
        "import argparse, sys; from mmjax.commands import doctor; doctor.run(argparse.Namespace()); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT)
