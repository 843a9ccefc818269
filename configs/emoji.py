"""Text-to-image generation of real illustrations: emoji, named in English and Chinese.

The visual tokenizer is trained first, then a masked generator on its codes; one command does both, sized for an hour on
two cores. Evaluated on combinations of activity, gender and skin tone that are in no training image.

Arguments: size=64 (pixels), languages=en+zh (of the captions, by their codes), tiny (ends in seconds).
Needs pip install '.[emoji]': OpenMoji's illustrations, CC BY-SA 4.0.
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, languages="en+zh")
    size = arg.size or (32 if arg.tiny else 64)
    data = {"source": "emoji", "size": size, "emoji": {"languages": tuple(arg.languages.split("+"))}}
    data["evaluation_split"] = "combinations"
    text = {"length": 24, "vocabulary": 4096}
    tokenizer = ConfigDict()
    tokenizer.data = data
    tokenizer.text = text
    tokenizer.model = {"kind": "visual_tokenizer", "widths": (32, 64, 128), "blocks": 1, "levels": (8, 5, 5, 5, 5)}
    tokenizer.losses = presets.tokenizer_losses()
    tokenizer.losses["mean_absolute_error"]["scales"] = 4  # else the lines outweigh the tones
    tokenizer.optimizer = presets.optimizer(6e-3, 100, b2=0.98, ema_decay=0.995, kind="muon")
    tokenizer.train = {"batch": 8, "steps": 8000, "log_every": 50, "evaluate_every": 4000, "checkpoint_every": 1000}
    tokenizer.evaluate = {"evaluators": ("losses", "reconstruction", "codes", "emoji"), "batch": 32, "samples": 16}

    config = ConfigDict()
    config.data = data
    config.text = text
    config.components = {"visual_tokenizer": tokenizer}
    config.model = {
        "kind": "masked_generator",
        "width": 192,
        "heads": 6,
        "layers": 4,
        "text_layers": 2,
        "local_blocks": 2,
    }
    config.losses = {"masked_visual_modeling": {"weight": 1.0, "label_smoothing": 0.0, "fully_masked": 0.2}}
    config.model.text_dropout = 0.1
    config.sampling = presets.refined_sampling()
    config.optimizer = presets.optimizer(1e-2, 100, b2=0.98, ema_decay=0.998, kind="muon")
    config.train = {
        "batch": 16,
        "steps": 4500,
        "log_every": 50,
        "evaluate_every": 2250,
        "checkpoint_every": 1000,
        "best_metric": "emoji/all",
    }
    config.evaluate = {"evaluators": ("losses", "emoji"), "batch": 32, "samples": 16}
    if arg.tiny:
        presets.shrink(tokenizer, widths=(8, 16, 16), blocks=0)
        presets.shrink(config, width=32, heads=4, layers=2, text_layers=1)
        config.sampling.update({"steps": 3, "refinement_steps": 1})
        for each in (tokenizer, config):
            each.text.vocabulary = text["vocabulary"]  # fewer do not hold the characters of Chinese
    return config
