"""METEOR (Denkowski and Lavie 2014), by its authors' Java program from pycocoevalcap."""

import contextlib
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmjax.evaluate.caption_scores import Tokens


def missing() -> str:
    """What METEOR lacks here, and how to install it; "" if nothing."""
    java = "" if shutil.which("java") else "Java (Debian's package default-jre-headless)"
    return " and ".join(filter(None, [java, "" if _jar() else "pycocoevalcap (pip install '.[captions]')"]))


def _jar() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    folders = (found and found.submodule_search_locations) or ()
    jars = [Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders]
    return next((jar for jar in jars if jar.is_file()), None)


def meteor(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """METEOR 1.5 of the whole corpus, as in the COCO caption evaluation; arguments as in caption_scores.

    Raises:
        RuntimeError: if the program is missing or fails.
    """
    jar = _jar()
    if missing() or jar is None:
        raise RuntimeError(f"METEOR needs {missing()}")
    # Decimal points and UTF-8 in any locale.
    java = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US", "-jar", str(jar)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            [*java, "-", "-", "-stdio", "-l", "en", "-norm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        ) as process,
    ):
        requests, replies = process.stdin, process.stdout
        assert requests is not None and replies is not None

        def send(*parts: str) -> None:
            requests.write(" ||| ".join(parts) + "\n")
            requests.flush()

        try:
            statistics = []
            for one, others in zip(written, references, strict=True):
                send("SCORE", *map(_text, others), _text(one))
                statistics.append(replies.readline().strip())
            send("EVAL", *statistics)
            requests.close()
            *each, total = map(float, replies.read().split())
            if len(each) != len(statistics):
                raise ValueError(f"scored {len(each)} of {len(statistics)} captions")
            return total
        except (OSError, ValueError) as error:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):  # of what was not yet written
                requests.close()
            stderr.seek(0)
            why = stderr.readline().strip() or str(error)
            raise RuntimeError(f"METEOR's program failed: {why}") from error


def _text(tokens: Tokens) -> str:
    return " ".join(tokens).replace("|||", "")
