"""Progress: a bar on a terminal, plain lines in a pipe, and never the end of the work."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from mmjax import progress

ROOT = Path(__file__).parents[1]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
WORK = """
import time
from mmjax.progress import progress_bar, write
with progress_bar(None, "", 5, delay=0.0, initial=1) as bar:
    for step in range(2, 6):
        bar.set_postfix_str(f"loss {step / 10}")
        bar.update()
        if step == 3:
            write("step 3: loss 7")
        time.sleep(0.01)
for _ in progress_bar(range(7), "short work", 7):
    pass
print("done")
"""


def test_in_a_pipe_it_is_a_line_at_the_first_and_the_last_step() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"step 3: loss 7\ndone\n"
    first, last = done.stderr.decode().splitlines()
    assert re.fullmatch(STAMP + r"step 2 of 5, loss 0\.2, \d\d:\d\d left", first)
    assert re.fullmatch(STAMP + r"step 5 of 5, loss 0\.5, 00:00 left", last)
    assert b"\r" not in done.stderr


def test_on_a_terminal_it_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", WORK], cwd=ROOT, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how a terminal ends
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    assert b"\r" in shown and b"1/5" in shown and b"step 3: loss 7\r\n" in shown and shown.endswith(b"done\r\n")
    assert b"short work" not in shown


@pytest.mark.parametrize("closed", ["reader", "descriptor"])
def test_the_work_goes_on_when_nobody_can_be_told(closed: str, tmp_path: Path) -> None:
    program = WORK if closed == "reader" else f"import sys\nsys.stderr.close()\n{WORK}"
    program += f"open({str(tmp_path / 'done')!r}, 'w').close()\nimport os\nos._exit(0)"
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert process.returncode == 0 and (tmp_path / "done").exists()


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, text: str) -> str:
        return "now"


def lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: list[float], **options: object
) -> list[str]:
    """What is written when each unit takes so long."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    for second in progress.progress_bar(seconds, "embedding", len(seconds), unit="image", **options):  # type: ignore[arg-type]
        clock.now += second
    return capsys.readouterr().err.splitlines()


def test_a_line_every_30_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(monkeypatch, capsys, [101.0, *[1.0] * 1200], delay=0.0)
    assert found[:3] == [
        "now embedding: image 1 of 1,201, 0.0099/s, 33:40:00 left",
        "now embedding: image 31 of 1,201, 1/s, 19:30 left",
        "now embedding: image 61 of 1,201, 1/s, 19:00 left",
    ]
    assert len(found) == 41 and found[-1] == "now embedding: image 1,201 of 1,201, 1/s, 00:00 left"


def test_what_is_done_within_the_delay_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(monkeypatch, capsys, [0.125] * 15) == []
    assert lines(monkeypatch, capsys, [0.125] * 29) == [
        "now embedding: image 16 of 29, 8/s, 00:01 left",
        "now embedding: image 29 of 29, 8/s, 00:00 left",
    ]
    assert lines(monkeypatch, capsys, [9.0] * 29, disable=True) == []
