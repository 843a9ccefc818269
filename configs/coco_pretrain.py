"""Vision-language pretraining on COCO with five losses: contrastive, image-text matching, captioning, masked language
modeling and masked patch modeling.

coco_caption.py, coco_contrastive.py and vqa.py start from its model with --config.train.init_from=WORKDIR.

Arguments: size=224 (pixels; 64 or less suits a laptop), questions (also trains answering, on a mixture of captions and
the questions of A-OKVQA, or others by --config.data.mixture.questions.questions), tiny (ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/).
"""

from typing import Any

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, questions=False)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": not arg.questions}
    if arg.questions:
        files = {
            "questions": "annotations/aokvqa_train2017.json",
            "evaluation_questions": "annotations/aokvqa_val2017.json",
        }
        config.data.source = "mixture"
        config.data.mixture = {
            "captions": {"source": "coco_folder", "weight": 3.0},
            "questions": {"source": "vqa", "weight": 1.0, **files},
        }
    config.text = text(size)
    config.model = model(size)
    config.compute = {"remat": not small}
    terms = ("contrastive", "matching", "captioning", "masked_language_modeling", "masked_patch_modeling")
    config.losses = {name: {"weight": 1.0} for name in terms}
    if arg.questions:
        config.losses.answering = {"weight": 1.0}
    config.optimizer = optimizer(size, 1e-3 if small else 3e-4)
    config.train = {"batch": 64 if small else 1024, "epochs": 30, "best_metric": "retrieval/text_to_image_r5"}
    config.evaluate = {"evaluators": ("losses", "retrieval", "captions"), "batch": 32, "samples": 16}
    if arg.tiny:
        shrink(config)
        config.evaluate.evaluators = ("losses", "retrieval")
    return config


def text(size: int) -> dict[str, Any]:
    """Text tokens of all vision-language configs on COCO, so that each can start from this one."""
    return {"length": 32, "vocabulary": 2000 if size <= presets.LAPTOP else 8192}


def model(size: int, **changes: Any) -> dict[str, Any]:
    """Model of all vision-language configs on COCO; parts that no loss trains are not built."""
    small = size <= presets.LAPTOP
    return {
        "kind": "vision_language",
        "patch": 8 if small else 16,
        "stem": (32, 64, 96) if small else (64, 128, 256),
        "width": 128 if small else 768,
        "heads": 4 if small else 12,
        "layers": 2 if small else 12,
        "text_layers": 1 if small else 6,
        "fusion_layers": 1 if small else 4,
        "decoder_layers": 2 if small else 6,
        "embedding": 64 if small else 256,
    } | changes


def optimizer(size: int, learning_rate: float) -> dict[str, Any]:
    """Optimizer of all vision-language configs on COCO."""
    small = size <= presets.LAPTOP
    decay = {"weight_decay": 0.05, "ema_decay": 0.99 if small else 0.9999}
    return presets.optimizer(learning_rate, 100 if small else 2000, b2=0.98, kind="adamw", **decay)


def shrink(config: ConfigDict) -> None:
    """Makes training of any vision-language config on COCO end in seconds."""
    presets.shrink(config, width=32, heads=4, stem=(8,), embedding=16)
    config.model.update(dict.fromkeys(("layers", "text_layers", "fusion_layers", "decoder_layers"), 1))
