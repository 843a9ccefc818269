"""Files that only inform, of evaluations and metrics, stop no work where they are damaged."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmjax.cli import main
from mmjax.evaluate.report import write_report
from mmjax.files import read_lines
from mmjax.train.metrics import Metrics
from mmjax.train.timeline import Timeline

LONG = b"1" + b"0" * 5_000
DAMAGED = (b"", b"{", b"[1]", b"[" * 100_000, b'{"loss": [1]}', b'{"loss": 1' + b"0" * 999 + b"}",
           b'{"a": ' + LONG + b"}", b"\xff")  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**999),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)


@pytest.mark.parametrize("content", DAMAGED[1::2], ids=range(len(DAMAGED) // 2))
def test_an_export_leaves_a_damaged_evaluation_out(content: bytes, workdir: Path, tmp_path: Path) -> None:
    (workdir / "evaluation" / "4.json").write_bytes(content)
    assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'model'}"]) == 0
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert "1000000" not in (tmp_path / "model" / "README.md").read_text()


@SHARED
@given(content=st.sampled_from(DAMAGED) | ANYTHING.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("name", ["4.json", "4.samples.json", "4.samples.png"])
def test_a_report_leaves_a_damaged_file_out(
    name: str, content: bytes, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    (workdir / "metrics.jsonl").unlink(missing_ok=True)  # curves take seconds
    (workdir / "evaluation" / name).write_bytes(content)
    assert "<h2>Samples" in write_report(workdir).read_text(encoding="utf-8")
    assert len(caplog.messages) <= 1


@SHARED
@given(about=st.fixed_dictionaries({"prompts": ANYTHING, "rows": ANYTHING, "cell": ANYTHING}))
def test_a_report_leaves_samples_of_another_layout_out(about: dict[str, Any], workdir: Path) -> None:
    (workdir / "metrics.jsonl").unlink(missing_ok=True)
    (workdir / "evaluation" / "4.samples.json").write_text(json.dumps(about))
    assert "<h2>Samples" in write_report(workdir).read_text(encoding="utf-8")


def test_a_report_decodes_no_bomb(workdir: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (workdir / "evaluation" / "4.samples.png").write_bytes(bomb)
    assert "step 2" in write_report(workdir).read_text(encoding="utf-8").split("<h2>Samples")[1]


@settings(SHARED, max_examples=3)  # curves take seconds
@given(rows=st.lists(st.dictionaries(st.sampled_from(["steps", "at", "loss", "stopped"]), ANYTHING), max_size=3))
def test_odd_lines_of_metrics_are_left_out(
    rows: list[dict[str, Any]], workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = workdir / "metrics.jsonl"
    lines = [json.dumps({"step": 1, "split": split, **row}).encode() for row in rows for split in ("time", "train")]
    path.write_bytes(b"\n".join([*lines, *DAMAGED, b""]))
    write_report(workdir)
    assert not [message for message in caplog.messages if "report" in message]
    timeline = Timeline(0.0)
    timeline.resume(read_lines(path), 4)
    timeline.close()
    Metrics(workdir, 4).close()
