"""METEOR's Java program: its metrics against those of pycocoevalcap, and how it is talked to, with a stand-in."""

import shutil
import stat
import sys
from pathlib import Path

import pytest

from mmjax.evaluate import captions

WRITTEN = [text.split() for text in ("a cat on a mat", "two dogs run far", "", "||| x")]
REFERENCES = [
    [text.split() for text in others]
    for others in (["a cat on the mat", "the cat"], ["two dogs are running"], ["a b"], ["x y", ""])
]

# Speaks the protocol: of each caption the number of its words, and of all their mean.
STAND_IN = """
import sys
print("warning: of no interest", file=sys.stderr)
for line in sys.stdin:
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        print(len(parts[-1].split()), flush=True)
    else:
        print(*parts, sum(map(int, parts)) / len(parts), sep="\\n", flush=True)
"""


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program of one's own in Java's place."""

    def write(program: str) -> None:
        file = tmp_path / "java"
        file.write_text(f"#!{sys.executable}\n{program}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))

    monkeypatch.setattr(captions, "_jar", lambda: tmp_path / "meteor-1.5.jar")
    return write


def test_each_caption_and_the_corpus_are_scored(java) -> None:
    java(STAND_IN)
    assert captions.meteor(WRITTEN, REFERENCES) == (5 + 4 + 0 + 1) / 4


def test_one_and_many_images(java) -> None:
    java(STAND_IN)
    assert captions.meteor(WRITTEN[:1], REFERENCES[:1]) == 5
    assert captions.meteor(WRITTEN[1:2] * 3000, REFERENCES[1:2] * 3000) == 4


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('Error: Could not reserve enough space\\nmore')", "Could not reserve enough space$"),
        ("for line in __import__('sys').stdin: print('what?', flush=True)", "could not convert string to float"),
        ("for line in __import__('sys').stdin: print('1', flush=True)", "scored 0 of 4000 captions"),
        ("", "METEOR's program failed"),
    ],
)
def test_program_error_is_one_line(java, program: str, message: str) -> None:
    java(program)
    with pytest.raises(RuntimeError, match=message):
        captions.meteor(WRITTEN * 1000, REFERENCES * 1000)


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(captions.importlib.util, "find_spec", lambda name: None)
    assert (
        captions.missing_meteor()
        == "Java (Debian's package default-jre-headless) and pycocoevalcap (pip install '.[captions]')"
    )
    with pytest.raises(RuntimeError, match=r"METEOR needs Java .* and pycocoevalcap"):
        captions.meteor(WRITTEN, REFERENCES)


def test_nothing_is_missing(java) -> None:
    java(STAND_IN)
    assert captions.missing_meteor() == ""


def test_package_contains_the_program() -> None:
    package = pytest.importorskip("pycocoevalcap")
    assert captions._jar() == Path(package.__path__[0]) / "meteor" / "meteor-1.5.jar"


@pytest.mark.slow  # the program reads 60 MB of paraphrases when it starts
def test_equals_pycocoevalcap() -> None:
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("needs Java, such as Debian's default-jre-headless")
    # What its Meteor().compute_score gives.
    assert captions.meteor(WRITTEN, REFERENCES) == pytest.approx(0.3193655309262204, abs=1e-12)
