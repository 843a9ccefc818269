"""One model of COCO's images and captions by five losses at once, which coco_caption.py, coco_contrastive.py and vqa.py
start from with --config.train.init_from=WORKDIR.

Contrastive, matching of hard pairs, captioning, masked language modeling and masked patches. With questions, a mixture
of captions and of questions (A-OKVQA's, or others by --config.data.mixture.questions.questions) learns answering too.

Arguments: size=224 (pixels; 64 and less suit a laptop), questions (answer them as well), tiny (ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/).
"""

from typing import Any

from ml_collections import ConfigDict

from mmjax.config import parse_arguments

SMALL = 64  # pixels, up to which a model is for a laptop


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, questions=False)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= SMALL
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": not arg.questions}
    if arg.questions:
        asked = {"questions": "annotations/aokvqa_train2017.json"}
        asked["evaluation_questions"] = "annotations/aokvqa_val2017.json"
        config.data.source = "mixture"
        config.data.mixture = {
            "captions": {"source": "coco_folder", "weight": 3.0},
            "questions": {"source": "vqa", "weight": 1.0, **asked},
        }
    config.text = text(size)
    config.model = model(size)
    config.compute = {"remat": not small}
    terms = ("contrastive", "matching", "captioning", "masked_language_modeling", "masked_patch_modeling")
    config.losses = {name: {"weight": 1.0} for name in terms}
    if arg.questions:
        config.losses.answering = {"weight": 1.0}
    config.optimizer = optimizer(size, 1e-3 if small else 3e-4)
    config.train = {"batch": 64 if small else 1024, "epochs": 30, "best_metric": "-loss"}
    config.evaluate = {"evaluators": ("losses", "retrieval", "captions"), "batch": 32, "samples": 16}
    if arg.tiny:
        shrink(config)
        config.evaluate.evaluators = ("losses", "retrieval")
    return config


def text(size: int) -> dict[str, Any]:
    """The text tokens of all configs of images to text on COCO, so that each can start from this one."""
    return {"length": 32, "vocabulary": 2000 if size <= SMALL else 8192}


def model(size: int, **changes: Any) -> dict[str, Any]:
    """The model of all configs of images to text on COCO; what an objective does not train is not built."""
    small = size <= SMALL
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
    """How all of them but the contrastive one are trained."""
    small = size <= SMALL
    return {
        "kind": "adamw",
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "warmup_steps": 100 if small else 2000,
        "b2": 0.98,
        "weight_decay": 0.05,
        "grad_clip_norm": 1.0,
        "ema_decay": 0.99 if small else 0.9999,
    }


def shrink(config: ConfigDict) -> None:
    """Makes any of them end in seconds."""
    config.data.evaluation_examples = 16
    config.text.vocabulary = 400
    config.optimizer.warmup_steps = 2
    config.model.update({"width": 32, "heads": 4, "stem": (8,), "embedding": 16})
    config.model.update(dict.fromkeys(("layers", "text_layers", "fusion_layers", "decoder_layers"), 1))
    config.train.update({"batch": 8, "epochs": 0, "steps": 4})
    config.train.update({"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
    config.evaluate.update({"batch": 8, "samples": min(config.evaluate.samples, 4)})
