"""METEOR (Denkowski and Lavie 2014) by its authors' Java program, which pycocoevalcap brings."""

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmjax.evaluate.caption_scores import Tokens


def missing() -> str:
    """What METEOR lacks here, and how to get it; "" where nothing is missing."""
    lacks = []
    if shutil.which("java") is None:
        lacks.append("Java (Debian's package default-jre-headless)")
    if _jar() is None:
        lacks.append("pycocoevalcap (pip install '.[captions]')")
    return " and ".join(lacks)


def _jar() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    folders = found.submodule_search_locations if found else None
    jars = [Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders or ()]
    return next((jar for jar in jars if jar.is_file()), None)


def meteor(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """METEOR 1.5 of the whole corpus, as the COCO caption evaluation computes it; arguments as in caption_scores.

    Raises:
        RuntimeError: where the program is not there, or fails.
    """
    jar = _jar()
    if missing() or jar is None:
        raise RuntimeError(f"METEOR needs {missing()}")
    # Numbers with points and text in UTF-8, whatever the machine's language.
    java = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US", "-jar", str(jar)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints,
        subprocess.Popen(
            [*java, "-", "-", "-stdio", "-l", "en", "-norm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def ask(parts: Sequence[str], answers: int = 1) -> str:
            """Sends a line, reads so many, and returns the last."""
            process.stdin.write(" ||| ".join(parts) + "\n")
            process.stdin.flush()
            return [process.stdout.readline() for _ in range(answers)][-1].strip()

        try:
            lines = (["SCORE", *map(_text, others), _text(one)] for one, others in zip(written, references, strict=True))
            statistics = [ask(line) for line in lines]
            return float(ask(["EVAL", *statistics], len(statistics) + 1))  # one for each picture, then that of all
        except (OSError, ValueError) as error:
            process.kill()
            process.wait()
            complaints.seek(0)
            why = complaints.readline().strip() or str(error)
            raise RuntimeError(f"METEOR's program failed: {why}") from error


def _text(tokens: Tokens) -> str:
    return " ".join(tokens).replace("|||", "")
