"""Personalization: a trained generator learns a thing from a few images, by LoRA, under a rare word in their captions.

Arguments: model=runs/quickstart (workdir or model folder of a trained masked generator), size=0 (pixels; 0: those of
the model), tiny (ends in seconds).
Needs --config.data.root=DIR: DIR/train/ with the images and captions.jsonl, with lines such as
{"image": "1.jpg", "captions": ["a zorp left of a blue square"]}. The images are encoded by the model's own visual
tokenizer. `mmjax export --lora=alone` writes what was learned as a file for `mmjax generate --lora`.
"""

from pathlib import Path
from typing import Any

import presets
import quickstart
from ml_collections import ConfigDict

from mmjax.config import parse_arguments
from mmjax.train.workdir import read_json
from mmjax.types import UserError


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, model="runs/quickstart", size=0)
    trained = _trained(arg.model, arg.size, arg.tiny)
    size = arg.size or trained["data"]["size"]
    config = ConfigDict({name: trained[name] for name in ("text", "model", "losses", "sampling") if name in trained})
    if "reference_tokenizer" in trained["components"]:
        raise UserError(f"model={arg.model}: makes images of images; personalize.py is for generators from text alone")
    config.components = {name: _component(arg.model, part) for name, part in trained["components"].items()}
    # No crops: the captions may say where something is.
    config.data = {"source": "images_folder", "evaluation_split": "train", "size": size, "resize": size}
    config.lora = {"rank": 8, "alpha": 8, "kernels": ("**/attention/(q|v)/kernel",)}
    config.optimizer = presets.optimizer(3e-3, 20, b2=0.98, ema_decay=0.98, kind="adamw")
    config.train = {
        "init_from": arg.model,
        "batch": 8,
        "steps": 150,
        "log_every": 20,
        "evaluate_every": 150,
        "checkpoint_every": 150,
    }
    config.evaluate = {"evaluators": ("losses",), "batch": 16, "samples": 16}
    if arg.tiny:
        config.optimizer.warmup_steps = 2
        config.train.update({"batch": 8, "steps": 4, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
        config.evaluate.update({"batch": 8, "samples": 4})
        config.sampling.update({"steps": 3, "refinement_steps": 1})
    return config


def _component(model: str, part: dict[str, Any]) -> dict[str, Any]:
    """A component of the trained model; of one in Hugging Face's layout all is read from the path."""
    return {"path": model} if part.get("pretrained") else {"path": model, "config": part.get("config") or part}


def _trained(model: str, size: int, tiny: bool) -> dict[str, Any]:
    """The config of the trained model, or of the quickstart's where there is none, which training will say."""
    if (Path(model) / "config.json").exists():
        config: dict[str, Any] = read_json(Path(model))["config"]
        return config
    config = quickstart.get_config(f"size={size or 32}" + (",tiny" if tiny else "")).to_dict()
    return config
