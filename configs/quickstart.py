"""Text-to-image generation: two shapes whose sizes and positions the caption leaves open, in minutes on a laptop.

The visual tokenizer is trained first, then a masked generator on its codes; one command does both.

Arguments: size=32 (pixels; 64 takes about three times as long), tiny (ends in seconds, too soon for images).
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=32)
    data = {"source": "scenes", "size": arg.size, "scenes": {"examples": 20_000, "fully_specified": False}}
    data["evaluation_examples"] = 128  # sampling is slow; `mmjax evaluate` can use all
    text = {"length": 12, "vocabulary": 512}
    tokenizer = ConfigDict()
    tokenizer.data = data
    tokenizer.text = text
    tokenizer.model = {
        "kind": "visual_tokenizer",
        "widths": (32, 64) if arg.size < 64 else (32, 64, 64),
        "blocks": 1,
        "levels": (8, 6, 5),
    }
    tokenizer.losses = presets.tokenizer_losses()
    tokenizer.model.code_noise_prob = 0.1  # makes the decoder robust to errors of the generator
    tokenizer.optimizer = presets.optimizer(6e-3, 50, b2=0.98, ema_decay=0.99, kind="muon")
    tokenizer.train = {"batch": 16, "steps": 1600, "log_every": 10, "evaluate_every": 1600, "checkpoint_every": 400}
    tokenizer.evaluate = {"evaluators": ("losses", "reconstruction", "codes", "scenes"), "batch": 64, "samples": 16}

    config = ConfigDict()
    config.data = data
    config.text = text
    config.components = {"visual_tokenizer": tokenizer}
    config.model = {
        "kind": "masked_generator",
        "width": 128,
        "heads": 4,
        "layers": 3,
        "text_layers": 2,
        "local_blocks": 2,
    }
    # Fully masked examples teach which object is where; without them two thousand steps are too few for most seeds.
    config.losses = {"masked_visual_modeling": {"weight": 1.0, "label_smoothing": 0.0, "fully_masked": 0.2}}
    config.model.text_dropout = 0.1
    config.sampling = presets.refined_sampling()
    config.optimizer = presets.optimizer(1e-2, 50, b2=0.98, ema_decay=0.995, kind="muon")
    config.train = {
        "batch": 16,
        "steps": 2400,
        "log_every": 20,
        "evaluate_every": 2400,
        "checkpoint_every": 1000,
        "best_metric": "scenes/all",
    }
    config.evaluate = {"evaluators": ("losses", "scenes", "diversity"), "batch": 64, "samples": 16}
    if arg.tiny:
        presets.shrink(tokenizer, widths=(8, 16), blocks=0)
        presets.shrink(config, width=32, layers=2, text_layers=1)
        config.sampling.update({"steps": 3, "refinement_steps": 1})
    return config
