"""Teaches trained quickstarts a new word for a color from 16 images, by LoRA, and measures what that changes.

    python benchmarks/lora.py --models runs/seeds/0 runs/seeds/1 runs/seeds/2 --workdir=runs/lora

The images show cyan things, which the captions call aqua. Evaluated on scenes whose combinations of shape, color
and relation are in no training image: those of the quickstart's own evaluation, and some with a cyan thing, called
aqua. What is complete is not done again. The table is also written to WORKDIR/lora.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).parents[1] / "configs" / "personalize.py"
COLOR, WORD = "cyan", "aqua"
IMAGES, KNOWN, NEW = 16, 128, 64
METRICS = ("shape", "color", "relation", "all")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, type=Path, metavar="DIR", help="trained quickstarts")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR")
    arguments, options = parser.parse_known_args()
    if unknown := [option for option in options if not option.startswith("--config.")]:
        parser.error(f"{unknown[0]}: not understood; other options are --config.FIELD=VALUE")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(arguments.workdir.resolve() / "compiled"))
    rows = []
    for number, model in enumerate(arguments.models):
        folder = arguments.workdir / str(number)
        if not (folder / "lora.json").exists():
            result = run(model, folder, number, options)
            (folder / "lora.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        rows.append(json.loads((folder / "lora.json").read_text(encoding="utf-8")))
        print(f"{model}: {rows[-1]}", flush=True)
    text = table(rows)
    (arguments.workdir / "lora.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def run(model: Path, folder: Path, seed: int, options: list[str]) -> dict[str, Any]:
    """Trains a LoRA; returns its seconds, its size relative to the model's, and the metrics before and after."""
    import mmjax

    write_images(folder / "images", seed)
    begin, before, train = time.time(), cpu_seconds(), folder / "train"
    command("train", f"--config={CONFIG}:model={model}", f"--config.data.root={folder / 'images'}",
            f"--workdir={train}", f"--config.seed={seed}", *options)  # fmt: skip
    spent = {"seconds": time.time() - begin, "cpu_seconds": cpu_seconds() - before}
    file = folder / f"{WORD}.safetensors"
    command("export", f"--workdir={train}", "--lora=alone", f"--out={file}")
    command("export", f"--workdir={model}", f"--out={folder / 'model'}")
    size = file.stat().st_size / (folder / "model" / "model.safetensors").stat().st_size
    result = spent | {"size": size}
    for name, loras in {"before": {}, "after": {file: 1.0}}.items():
        result |= {f"{name}/{key}": value for key, value in measured(mmjax.load(model, lora=loras)).items()}
        print(result, flush=True)
    return result


def cpu_seconds() -> float:
    """Of the commands so far, on all cores: unlike seconds, about the same beside other work."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "mmjax", *arguments], check=True)


def write_images(folder: Path, seed: int) -> None:
    """Writes training images of a thing of the color and another one, none of a held-out combination."""
    import numpy as np
    from PIL import Image

    from mmjax.scenes.draw import example

    (folder / "train").mkdir(parents=True, exist_ok=True)
    drawn = (example(index, 32, 1000 + seed, fully_specified=False, held_out=False) for index in range(10_000))
    lines = []
    for image, caption in drawn:
        if COLOR in caption and len(lines) < IMAGES:
            name = f"{len(lines)}.png"
            Image.fromarray(np.asarray(image)).save(folder / "train" / name)
            lines.append(json.dumps({"image": name, "captions": [caption.replace(COLOR, WORD)]}))
        if len(lines) == IMAGES:
            break
    (folder / "train" / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measured(model: Any) -> dict[str, float]:
    """Fractions of images that match their captions, of scenes in known words ("known/all") and in the new one."""
    from mmjax.scenes.check import judge
    from mmjax.scenes.draw import example_scene
    from mmjax.scenes.grammar import caption

    scenes = [caption(example_scene(index, 0, fully_specified=False, held_out=True)[0]) for index in range(1000)]
    asked = {"known": scenes[:KNOWN], "new": [text for text in scenes[KNOWN:] if COLOR in text][:NEW]}
    found = {}
    for name, captions in asked.items():
        prompts = [text.replace(COLOR, WORD) for text in captions] if name == "new" else captions
        verdicts = [judge(*pair) for pair in zip(model.generate(prompts), captions, strict=True)]
        for metric in METRICS:
            found[f"{name}/{metric}"] = sum(getattr(verdict, metric) for verdict in verdicts) / len(verdicts)
    return found


def table(rows: list[dict[str, float]]) -> str:
    """The metrics of all models in Markdown."""
    lines = ["| metric | before, each | mean | after, each | mean |", "| --- | --- | --- | --- | --- |"]
    for name in (f"{kind}/{metric}" for kind in ("new", "known") for metric in METRICS):
        cells = [name]
        for when in ("before", "after"):
            values = [row[f"{when}/{name}"] for row in rows]
            cells += [", ".join(f"{value:.3f}" for value in values), f"{sum(values) / len(values):.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    names = ("seconds", "cpu_seconds", "size")
    seconds, cpu, size = ([row[name] for row in rows] for name in names)
    return "\n".join([
        *lines,
        "",
        f"Seconds of training, its start included: {', '.join(f'{each:.0f}' for each in seconds)}; of all cores' time: "
        f"{', '.join(f'{each:.0f}' for each in cpu)}. Size of the file: {max(size):.2%} of the model's.",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
