"""Captioning, question answering and retrieval with one model, in minutes on a laptop.

Scenes have one to three shapes: those with two have a caption, all have a question.

Arguments: size=32 (pixels), fusion=cross_attention (or joint, mlp, bilinear), tiny (ends in seconds).
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=32, fusion="cross_attention")
    config = ConfigDict()
    config.data = {
        "source": "scenes",
        "size": arg.size,
        "scenes": {"examples": 40_000, "fully_specified": False, "questions": True},
    }
    config.text = {"length": 14, "vocabulary": 512}
    config.model = {
        "kind": "vision_language",
        "patch": 8,
        "stem": (32, 64, 128),
        "width": 128,
        "heads": 4,
        "layers": 2,
        "text_layers": 1,
        "fusion_layers": 1,
        "decoder_layers": 2,
        "fusion": arg.fusion,
        "embedding": 64,
    }
    config.losses = {"captioning": {"weight": 1.0}, "answering": {"weight": 1.0}, "contrastive": {"weight": 0.5}}
    config.optimizer = presets.optimizer(1e-2, 50, b2=0.98, ema_decay=0.995, kind="muon")
    config.train = {
        "batch": 64,
        "steps": 1400,
        "log_every": 20,
        "evaluate_every": 1400,
        "checkpoint_every": 700,
        "best_metric": "captions/true",
    }
    config.evaluate = {
        "evaluators": ("losses", "caption_faithfulness", "answers", "retrieval"),
        "batch": 64,
        "samples": 16,
    }
    if arg.tiny:
        presets.shrink(config, width=32, stem=(8, 16), layers=1, decoder_layers=1)
    return config
