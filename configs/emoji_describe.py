"""Captioning and retrieval of real illustrations: emoji and their names.

Evaluated on combinations of activity, gender and skin tone that are in no training image;
--config.data.evaluation_split=unseen takes whole emoji that are in none.

Arguments: size=64 (pixels), languages=en+zh (of the captions, by their codes), tiny (ends in seconds).
Needs pip install '.[emoji]': OpenMoji's illustrations, CC BY-SA 4.0.
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, languages="en+zh")
    config = ConfigDict()
    config.data = {
        "source": "emoji",
        "size": arg.size or (32 if arg.tiny else 64),
        "emoji": {"languages": tuple(arg.languages.split("+")), "background": "random"},
        "evaluation_split": "combinations",
    }
    config.text = {"length": 24, "vocabulary": 4096}
    config.model = {
        "kind": "vision_language",
        "patch": 8,
        "stem": (32, 64, 128),
        "width": 192,
        "heads": 6,
        "layers": 4,
        "text_layers": 2,
        "decoder_layers": 2,
        "embedding": 128,
    }
    config.losses = {"captioning": {"weight": 1.0}, "contrastive": {"weight": 0.5}}
    config.optimizer = presets.optimizer(1e-2, 100, b2=0.98, ema_decay=0.995, kind="muon")
    config.train = {
        "batch": 64,
        "steps": 1500,
        "log_every": 50,
        "evaluate_every": 500,
        "checkpoint_every": 500,
        "best_metric": "retrieval/text_to_image_r1",
    }
    config.evaluate = {"evaluators": ("losses", "captions", "retrieval"), "batch": 64, "samples": 16}
    if arg.tiny:
        presets.shrink(config, width=32, heads=4, stem=(8, 16, 16), layers=1, text_layers=1, decoder_layers=1)
        config.text.vocabulary = 4096  # fewer do not hold the characters of Chinese
    return config
