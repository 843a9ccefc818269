"""Every kind of model with every kind of source: trained, evaluated, reported, exported and loaded, or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Once

import mmjax
from mmjax import data, evaluate
from mmjax.cli import main
from mmjax.config import resolve
from mmjax.engine import setup
from mmjax.evaluate import captions
from mmjax.export import Captioner, ImageTokenizer
from mmjax.types import UserError

pytest.importorskip("tensorflow")
from every_source import make_roots

SIZES = {"width": 8, "heads": 2, "layers": 1, "text_layers": 1}
TOKENIZER = {"kind": "visual_tokenizer", "widths": [4, 4], "blocks": 0, "levels": [3, 3], "time_strides": [1, 2]}
READS = {"kind": "vision_language", **SIZES, "fusion_layers": 1, "decoder_layers": 1, "patch": 8, "embedding": 4}
KINDS: dict[str, dict[str, Any]] = {
    "direct": {"kind": "direct_generator", "width": 8, "heads": 2, "fusion_layers": 1, "decoder_widths": [4, 4]},
    "tokenizer": TOKENIZER,
    "masked": {"kind": "masked_generator", **SIZES},
    "captions": READS,
    "answers": READS,
    "embeds": READS,
    "classes": {**READS, "classes": 3},
    "hidden": READS,
}
LOSSES = {
    "direct": ["mean_squared_error"],
    "tokenizer": ["mean_squared_error", "adversarial"],
    "masked": ["masked_visual_modeling", "masked_language_modeling"],
    "captions": ["captioning"],
    "answers": ["answering"],
    "embeds": ["contrastive", "matching"],
    "classes": ["classification"],
    "hidden": ["masked_patch_modeling", "masked_language_modeling"],
}
QUESTIONS = "annotations/v2_OpenEnded_mscoco_{}_questions.json"
SOURCES: dict[str, dict[str, Any]] = {
    "scenes": {"source": "scenes", "scenes": {"examples": 8, "fully_specified": False}},
    "scenes_questions": {"source": "scenes", "scenes": {"examples": 8, "questions": True}},
    "scenes_clips": {"source": "scenes", "scenes": {"examples": 8}, "frames": 3},
    "emoji": {"source": "emoji", "evaluation_split": "combinations"},
    "coco_folder": {"source": "coco_folder"},
    "coco_packed": {"source": "coco_packed"},
    "coco_tfds": {"source": "coco_tfds"},
    "clips_folder": {"source": "clips_folder", "frames": 3},
    "vqa": {
        "source": "vqa",
        "questions": QUESTIONS.format("train2017"),
        "evaluation_questions": QUESTIONS.format("val2017"),
        "num_answer_classes": 3,
    },
    "classes_folder": {"source": "classes_folder"},
    "audio_folder": {"source": "audio_folder", "audio": {"seconds": 0.16, "bins": 16}},
    "mixture": {
        "source": "mixture",
        "mixture": {"coco": {"source": "coco_folder"}, "shapes": {"source": "scenes", "scenes": {"examples": 7}}},
    },
}


def combined(kind: str, source: str, root: Any, **fields: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": f"{kind}-{source}",
        "model": KINDS[kind],
        "losses": {name: {} for name in LOSSES[kind]},
        "discriminator": {"widths": [4]},
        "sampling": {"steps": 2},
        "data": {**SOURCES[source], "root": str(root), "size": 32, "evaluation_examples": 8},
        "text": {"length": 13, "vocabulary": 300},
        "train": {"batch": 8, "steps": 1, "best_metric": ""},
        "evaluate": {"batch": 8, "samples": 2, "classes": [f"class {c}" for c in range(3)]},
    }
    if kind == "masked":
        config["components"] = {"visual_tokenizer": combined("tokenizer", source, root)}
    return config | fields


# What each refuses, and the field that the message begins with and the value that it names.
NO_TEXT = dict.fromkeys(("vqa", "classes_folder"), "data.source: {source} gives no text")
NO_CLIPS = dict.fromkeys(("scenes_clips", "clips_folder"), "data.frames: ")
NO_SOUNDS = {"audio_folder": "data.source: audio_folder gives spectrograms"}
NO_PATCHES = dict.fromkeys(("scenes_clips", "clips_folder", "audio_folder"), "losses.masked_patch_modeling: ")
REFUSED = {
    "direct": NO_TEXT | NO_CLIPS | NO_SOUNDS,
    "tokenizer": NO_SOUNDS,
    "masked": NO_TEXT | {"audio_folder": "components.visual_tokenizer.config.data.source: audio_folder "},
    "captions": NO_TEXT,
    "answers": {
        name: "data.source: {source} gives no question" for name in SOURCES if name not in ("scenes_questions", "vqa")
    },
    "embeds": NO_TEXT,
    "classes": {
        name: "data.source: {source} gives no label" for name in SOURCES if name not in ("classes_folder", "vqa")
    },
    "hidden": NO_TEXT | NO_PATCHES,
}
QUICK = (  # what no other quick test trains
    ("tokenizer", "mixture"),
    ("direct", "coco_tfds"),
    ("captions", "audio_folder"),
    ("embeds", "clips_folder"),
    ("classes", "vqa"),
    ("hidden", "coco_packed"),
)
WORKING = [(kind, source) for kind in KINDS for source in SOURCES if source not in REFUSED[kind]]


@pytest.fixture(name="roots", scope="session")
def data_sets(once: Once) -> Path:
    def make(folder: Path) -> None:
        folder.mkdir()
        make_roots(folder)

    return once("roots", make)


@pytest.fixture(name="named")
def config_file(tmp_path: Path) -> str:
    """The start of an option that takes a config as JSON."""
    path = tmp_path / "matrix.py"
    lines = ("import json", "from ml_collections import ConfigDict", "def get_config(argument):")
    path.write_text("\n".join([*lines, "    return ConfigDict(json.loads(argument))", ""]))
    return f"--config={path}:"


def applicable(config: dict[str, Any]) -> list[str]:
    """The evaluators that a config may name."""
    found = []
    for name in evaluate.EVALUATORS.keys() - {"samples"}:
        try:
            setup.check(resolve(config | {"evaluate": config["evaluate"] | {"evaluators": [name]}}))
            found.append(name)
        except UserError:
            continue
    return sorted(found)


@pytest.mark.parametrize(("kind", "source"), [(kind, source) for kind in KINDS for source in REFUSED[kind]])
def test_what_makes_no_sense_is_refused(kind: str, source: str, named: str, tmp_path: Path, mistake: Mistake) -> None:
    config = combined(kind, source, tmp_path / "nowhere")
    line = mistake("train", f"{named}{json.dumps(config)}", f"--workdir={tmp_path / 'run'}")
    assert line.startswith(REFUSED[kind][source].format(source=SOURCES[source]["source"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "source"), [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in WORKING]
)
def test_takes_a_step_an_evaluation_a_report_and_an_export(
    kind: str, source: str, named: str, roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "_jar", lambda: None)  # METEOR's program takes ten seconds to start
    config = combined(kind, source, roots / SOURCES[source]["source"])
    config["evaluate"]["evaluators"] = names = applicable(config)
    run, out = tmp_path / "run", tmp_path / "model"
    assert "losses" in names and main(["train", f"{named}{json.dumps(config)}", f"--workdir={run}"]) == 0
    measured = json.loads((run / "evaluation" / "1.json").read_text())
    assert "loss" in measured and measured.keys() <= set(evaluate.metric_names(resolve(config)))
    assert all(value is not None for value in measured.values())
    shown = run / "evaluation" / ("1.samples.gif" if config["data"].get("frames") else "1.samples.png")
    assert shown.exists() and "data:image/" in (run / "report.html").read_text()
    assert main(["export", f"--workdir={run}", f"--out={out}"]) == 0
    model = mmjax.load(out)
    assert type(model) is type(mmjax.load(run))
    if source == "audio_folder":
        check_sounds(run, model, roots / source / "validation" / "103.wav")
    if kind in ("tokenizer", "masked"):
        check_shapes(model, (1, *([3] if config["data"].get("frames") else []), 32, 32, 3))


def check_sounds(run: Path, model: Any, path: Path) -> None:
    """Spectrograms are shown in grey, and a model takes what read_sound returns."""
    with Image.open(run / "evaluation" / "1.samples.png") as shown:
        pixels = np.asarray(shown)
    assert pixels.ndim == 3 and np.ptp(pixels) > 100 and (pixels == pixels[..., :1]).all()
    sound = data.read_sound(path, seconds=0.16, bins=16)[None]
    if isinstance(model, Captioner):
        assert isinstance(model.caption(sound)[0], str)
    else:
        assert model.embed_image(sound).shape == (1, READS["embedding"])


def check_shapes(model: Any, shape: tuple[int, ...]) -> None:
    """What is generated or decoded has the shape of the data, whether or not its tokenizer could take clips."""
    image = np.zeros(shape, np.uint8)
    if isinstance(model, ImageTokenizer):
        assert model.decode(model.encode(image)).shape == shape
    else:
        assert model.generate(["a cat"]).shape == shape
        assert model.generate(["a cat"], image=image, variation=0.5).shape == shape
