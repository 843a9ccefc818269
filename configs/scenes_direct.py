"""Direct generation: images of two shapes from captions that fully specify them, in minutes on a laptop.

Arguments: size=32 (pixels; 64 takes about three times as long), tiny (ends in seconds, too soon for images).
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=32)
    config = ConfigDict()
    config.data = {"source": "scenes", "size": arg.size, "scenes": {"examples": 20_000, "fully_specified": True}}
    config.text = {"length": 12, "vocabulary": 512}
    config.model = {
        "width": 128,
        "heads": 4,
        "text_layers": 2,
        "fusion_layers": 4,
        "reference": "",  # from text alone
        "decoder_widths": (96, 48, 16) if arg.size < 64 else (96, 48, 24, 12),
    }
    config.losses = {"mean_squared_error": {"weight": 1.0}}
    config.optimizer = presets.optimizer(2e-3, 100, b2=0.98, ema_decay=0.99)
    config.train = {
        "batch": 64,
        "steps": 800,
        "log_every": 10,
        "evaluate_every": 100,
        "checkpoint_every": 100,
        "best_metric": "scenes/all",
    }
    config.evaluate = {"evaluators": ("losses", "reconstruction", "scenes"), "batch": 64, "samples": 16}
    if arg.tiny:
        presets.shrink(config, width=32, heads=8, text_layers=1, fusion_layers=1, decoder_widths=(16, 8))
    return config
