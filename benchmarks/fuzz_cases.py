"""Cases of fuzz.py: what is damaged, how, and the command that then runs on it.

A kind of case is a function (draw, made, folder) -> Case: `draw` is its source of randomness, `made` what `make` left,
never to be changed, and `folder` an empty one for its files.
"""

import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import jax
import numpy as np
from fuzz_damage import JUNK, LARGE, WORDS, as_json, copied, damage, damage_tree, shown, some_file
from PIL import Image

from mmjax import data, models
from mmjax.cli import main
from mmjax.config import Config, load_config, resolve, to_dict
from mmjax.config.known_fields import fields_of
from mmjax.engine import aot_plan, setup, trainer
from mmjax.export import write_model_folder
from mmjax.parallel import Placement, make_mesh

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests" / "data"), str(ROOT / "configs")]

from made_data import (  # noqa: E402  another folder
    config_dict,
    jpeg,
    make_image,
    moving,
    tone,
    write_classes,
    write_clips,
    write_coco,
    write_sounds,
    write_vqa,
)

OPTIONS = [
    "--seed", "--guidance", "--steps", "--order", "--temperature", "--refinement-steps", "--top-k",
    "--reference", "--enlarge", "--image", "--mask", "--variation", "--clip", "--clip-frames", "--sharpen",
    "--denoise", "--prompts", "--prompt", "--out", "--model", "--question", "--beams", "--length-penalty",
    "--top-p", "--maps", "--json", "--index", "--text", "--weights", "--top", "--keep", "--rebuild", "--step",
    "--workdir", "--config", "--help-config", "--plugins", "--stop-at", "--to", "--resize", "--jobs",
    "--shard-size", "--topology", "--search", "--compilations", "--config.train.steps", "--config.x", "--help",
    "--x",
]  # fmt: skip
DIRECT = ROOT / "configs" / "coco_direct.py"
FEW = ["--config.optimizer.warmup_steps=1", "--config.train.evaluate_every=1", "--config.train.checkpoint_every=1"]
BASES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "presets")
CAPTIONS = ["a small red circle", "a large blue square", "a green triangle"] * 3
SHAPES: dict[str, Any] = {"data": {"size": 32}, "text": {"length": 7, "vocabulary": 320}, "train": {"steps": 1}}
VISUAL = SHAPES | {
    "model": {"kind": "visual_tokenizer", "widths": [8, 8], "levels": [3, 5]},
    "losses": {"mean_absolute_error": {}},
}
TRACED, TRAINED = 1 / 3, 1 / 50  # of the configs
MODELS: dict[str, dict[str, Any]] = {
    "direct": SHAPES | {"model": {"width": 16, "heads": 2, "text_layers": 1, "vision_layers": 1, "fusion_layers": 1,
                                  "decoder_widths": [8, 8]}},
    "masked": SHAPES | {"model": {"kind": "masked_generator", "width": 16, "heads": 2, "layers": 1, "text_layers": 1},
                        "components": {"visual_tokenizer": VISUAL}, "losses": {"masked_visual_modeling": {}},
                        "sampling": {"steps": 2}},
    "language": SHAPES | {"model": {"kind": "vision_language", "width": 16, "heads": 2, "text_layers": 1,
                                    "layers": 1, "fusion_layers": 1, "decoder_layers": 1, "embedding": 16,
                                    "patch": 8},
                          "losses": {"captioning": {}, "contrastive": {}}},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What was done, and the command that is run on it.

    Attributes:
        taken: whether the command must succeed, as what is damaged only informs.
    """

    told: str
    run: Callable[[], int]
    taken: bool = False


def make(made: Path, trained: bool = True) -> None:
    """Makes the sound models, data and, `trained`, the workdir that cases damage."""
    for name, tree in MODELS.items():
        config = resolve(tree)
        params = _params(config)
        for part, component in config.components.items():
            params[part] = _params(component.config)
        write_model_folder(made / name, config, params, data.train_tokenizer(CAPTIONS, 320), 1, {})
    for split in ("train2017", "val2017"):
        write_coco(made / "coco", split, {number: jpeg(number) for number in range(1, 9)})
    for split, kept in (("train", range(1, 9)), ("val", range(1, 4))):
        sounds = {f"{number}.wav": tone(100.0 * number) for number in kept}
        write_sounds(made / "sounds", split, sounds)
        write_clips(
            made / "clips", split, {f"{number}.gif": moving(4, number) for number in kept} | {"folder": moving(3)}
        )
        write_classes(made / "classes", split, {"cat": list(kept), "dog": list(kept)})
    rows = [(number, "what is it?", ["a cat", "a dog"] * 5) for number in range(1, 9)]
    for split in ("train2017", "val2017"):
        write_vqa(made / "coco", split, rows)
    keep = ["--index", str(made / "coco" / "train2017"), "--text", "a", "--keep", str(made / "index")]
    assert main(["search", "--model", str(made / "language"), *keep]) == 0
    command = [f"--config={DIRECT}:tiny", f"--config.data.root={made / 'coco'}"]
    assert main(["prepare", *command, f"--to={made / 'shards'}"]) == 0
    if trained:
        assert main(["train", *command, *FEW, "--config.train.steps=2", f"--workdir={made / 'workdir'}"]) == 0


def _params(config: Config | None) -> dict[str, Any]:
    assert config is not None
    draw, shapes = np.random.default_rng(0), jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return dict(jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes))


@functools.cache
def _tree(base: Path, root: Path) -> str:
    return json.dumps(to_dict(load_config(f"{base}:tiny", {"data.root": str(root / "coco")})))


def built(config: Config, traced: bool) -> int:
    """Checks a config as training does, gives its state a shape, and may trace its training step."""
    setup.check(config)
    placement = Placement(make_mesh(config.mesh))
    trainer.schedule(config, 100)
    experiment = setup.build(config, placement=placement, place=aot_plan._shapes)
    training = trainer.build(experiment, config.train.steps or config.optimizer.warmup_steps + 1)
    if traced:
        training.lower(aot_plan.batch_shapes(config, config.train.batch, placement.batch))
    return 0


def config(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A config with another value, field or group somewhere; one of fifty trains a step."""
    base, traced = draw.choice(BASES), draw.random() < TRACED
    tree = json.loads(_tree(base, made))
    told = "; ".join(damage_tree(draw, tree, junk) for _ in range(draw.choice((1, 1, 2))))
    if draw.random() > TRAINED:
        return Case(f"{base.stem}{', traced' * traced}: {told}", lambda: built(resolve(tree), traced))
    loads = f"ConfigDict(json.loads({as_json(tree).decode()!r}))"
    text = f"import json\nfrom ml_collections import ConfigDict\nget_config = lambda _: {loads}"
    (folder / "changed.py").write_text(text)
    command = ["train", f"--config={folder / 'changed.py'}", f"--workdir={folder / 'workdir'}", "--stop-at=1"]
    return Case(f"{base.stem}, trained: {told}", lambda: main(command))


def override(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A field of a config set on the command line to a wild value."""
    base, traced = draw.choice(BASES), draw.random() < TRACED
    names = [field.name for field in fields_of(Config, json.loads(_tree(base, made)))]
    some = {draw.choice(names): draw.choice([*WORDS, *map(str, LARGE)] if junk != JUNK else WORDS)}
    overrides = {"data.root": str(made / "coco")} | some
    return Case(f"{base.stem}: {some}"[:200], lambda: built(load_config(f"{base}:tiny", overrides), traced))


def _commands(made: Path, folder: Path) -> dict[str, list[str]]:
    """A sound command of each name."""
    image = str(made / "coco" / "train2017" / f"{1:012d}.jpg")
    config = [f"--config={DIRECT}:tiny", f"--config.data.root={made / 'coco'}"]
    return {
        "generate": ["--model", str(made / "masked"), "--prompt", "a circle", "--out", "out.png"],
        "describe": ["--model", str(made / "language"), "--image", image],
        "search": ["--model", str(made / "language"), "--index", str(made / "coco" / "val2017"), "--text", "a cat",
                   "--keep", str(folder / "index")],
        "export": ["--workdir", str(made / "workdir"), "--out", str(folder / "out")],
        "prepare": [*config, f"--workdir={folder / 'prepared'}"],
        "train": [*config, f"--workdir={folder / 'trained'}", "--stop-at=1"],
        "plan": [*config, "--topology=h100:8"],
        "doctor": [],
    }  # fmt: skip


def options(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A command with an option, known or not, and a wild value."""
    name, command = draw.choice(sorted(_commands(made, folder).items()))
    image = command[3] if name == "describe" else str(made / "coco")
    more = []
    for _ in range(draw.choice((1, 1, 2))):
        option, value = draw.choice(OPTIONS), draw.choice([*WORDS, image, str(made / "coco" / "annotations")])
        more += draw.choice(([f"{option}={value}"], [option, value], [option], [value]))
    if draw.random() < 0.2 and command:
        del command[draw.randrange(len(command))]
    return Case(f"{name}: {[shown(each) for each in more]}", lambda: main([name, *command, *more]))


def _used(model: Path, draw: Random, made: Path) -> list[str]:
    """A command that uses a model."""
    image = str(made / "coco" / "train2017" / f"{1:012d}.jpg")
    if not model.name.startswith("language"):
        return ["generate", "--model", str(model), "--prompt", "a circle", "--out", "out.png"]
    search = ["search", "--model", str(model), "--index", str(made / "coco" / "val2017"), "--text", "a cat",
              "--keep", "index"]  # fmt: skip
    return draw.choice((["describe", "--model", str(model), "--image", image], search))


def model(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A model folder with a damaged file."""
    name = draw.choice(sorted(MODELS))
    copy = copied(made / name, folder)
    told = damage(draw, some_file(draw, copy, "*.json", "*.model", "*.safetensors"), junk)
    return Case(f"{name}: {told}", functools.partial(main, _used(copy, draw, made)))


def workdir(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A workdir with a damaged file, which is exported, resumed, evaluated, or drawn from."""
    copy = copied(made / "workdir", folder)
    informs = draw.random() < 0.5
    patterns = ("metrics.jsonl", "evaluation/*") if informs else ("*", "checkpoints/2/*", "checkpoints/2/*/*")
    path = some_file(draw, copy, *patterns)
    told = damage(draw, path, junk)
    taken = informs and path.is_file() and not path.is_symlink()
    coco = [f"--config={DIRECT}:tiny", f"--config.data.root={made / 'coco'}"]
    train = ["train", *coco, *FEW, "--config.train.steps=3"]
    export = ["export", "--out", str(folder / "out")]
    command = draw.choice((export, export, export, train, ["evaluate"]))
    told = f"{command[0]}: {path.relative_to(copy)}: {told}"
    return Case(told, lambda: main([*command, "--workdir", str(copy)]), taken)


SOURCES = {"coco": "coco_folder", "sounds": "audio_folder", "clips": "clips_folder", "classes": "classes_folder",
           "vqa": "vqa"}  # fmt: skip


def read(config: Config) -> int:
    """Reads the training and the evaluation examples of a config."""
    tokenizer = data.load_tokenizer(data.train_tokenizer(CAPTIONS, 320))
    for training in (False, True):
        source = data.open_source(config.data, training=training, seed=0)
        list(data.evaluation_batches(source, tokenizer, config))
        if training:
            list(source.all_captions())
            batches: Any = data.training_batches(source, tokenizer, config, 0, 0, config.train.batch, 0)
            with contextlib.closing(batches):
                list(itertools.islice(batches, 2))
    return 0


def _data_config(name: str, root: Path, **more: Any) -> Config:
    splits = {"coco": {}, "classes": {"evaluation_split": "val"}, "sounds": {"audio": {"seconds": 0.32, "bins": 16}}}
    asked = {"questions": "annotations/v2_OpenEnded_mscoco_train2017_questions.json",
             "evaluation_questions": "annotations/v2_OpenEnded_mscoco_val2017_questions.json"}  # fmt: skip
    fields = {**splits.get(name, {}), **(asked if name == "vqa" else {})}
    if name in ("sounds", "clips"):
        fields["evaluation_split"] = "val"
    return config_dict(SOURCES[name], root, **fields, **more)


def dataset(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A data folder with a damaged file, of which every example is read."""
    name = draw.choice(sorted(SOURCES))
    copy = copied(made / ("coco" if name == "vqa" else name), folder)
    named = "captions_*" if name == "coco" else "v2_*" if name == "vqa" else "*.jsonl"
    found = any(copy.rglob(named)) and draw.random() < 0.6
    path = some_file(draw, copy, f"**/{named}" if found else "**/*")
    told = f"{name}: {damage(draw, path, junk)}"
    if name == "coco" and draw.random() < 0.4:
        command = ["prepare", f"--config={DIRECT}:tiny", f"--config.data.root={copy}",
                   f"--to={folder / 'shards'}"]  # fmt: skip
        return Case(f"{told}, packed", lambda: main(command))
    return Case(told, lambda: read(_data_config(name, copy)))


def shards(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """Prepared shards with a damaged file, which are read or written again."""
    copy = copied(made / "shards", folder)
    told = damage(draw, some_file(draw, copy, "**/index.json" if draw.random() < 0.7 else "**/*"), junk)
    if draw.random() < 0.5:
        command = ["prepare", f"--config={DIRECT}:tiny",
                   f"--config.data.root={made / 'coco'}", f"--to={copy}"]  # fmt: skip
        return Case(f"{told}, written again", lambda: main(command))
    return Case(told, lambda: read(config_dict("coco_packed", copy)))


def image(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A damaged image as an input."""
    kind = draw.choice(("JPEG", "PNG", "GIF", "BMP", "WEBP"))
    path = folder / f"image.{kind.lower()}"
    mode = draw.choice(("RGB", "L", "P", "RGBA", "1") if kind != "JPEG" else ("RGB", "L", "CMYK"))
    Image.fromarray(make_image(draw.randrange(9))).convert(mode).save(path, kind)
    told = f"{kind} {mode}: {damage(draw, path)}"
    command = draw.choice((
        ["describe", "--model", str(made / "language"), "--image", str(path)],
        ["generate", "--model", str(made / "direct"), "--prompt", "a", "--reference", str(path), "--out", "out.png"],
        ["generate", "--model", str(made / "masked"), "--prompt", "a", "--image", str(path), "--variation", "0.5",
         "--out", "out.png"],
    ))  # fmt: skip
    return Case(f"{command[0]}: {told}", lambda: main(command))


def texts(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A damaged file of prompts, or of texts to search."""
    path = folder / "texts.txt"
    path.write_text("\n".join(draw.choice([*CAPTIONS, *WORDS]) for _ in range(draw.randrange(9))), errors="replace")
    told = damage(draw, path)
    command = draw.choice((
        ["generate", "--model", str(made / "direct"), "--prompts", str(path), "--out", "out.png"],
        ["search", "--model", str(made / "language"), "--index", str(path), "--text", draw.choice([*WORDS, "a"])],
    ))  # fmt: skip
    return Case(f"{command[0]}: {told}", lambda: main(command))


def kept_index(draw: Random, made: Path, folder: Path, junk: list[Any]) -> Case:
    """A kept index of `search` with a damaged file."""
    copy = copied(made / "index", folder)
    told = damage(draw, some_file(draw, copy, "**/*"), junk)
    command = ["search", "--model", str(made / "language"), "--index", str(made / "coco" / "train2017"), "--text", "a",
               "--keep", str(copy)]  # fmt: skip
    return Case(told, lambda: main(command))


KINDS: dict[str, tuple[int, Callable[[Random, Path, Path, list[Any]], Case]]] = {  # by name: their share, and the kind
    "config": (32, config),
    "override": (16, override),
    "options": (8, options),
    "model": (10, model),
    "workdir": (5, workdir),
    "dataset": (10, dataset),
    "shards": (6, shards),
    "image": (8, image),
    "texts": (5, texts),
    "index": (3, kept_index),
}
