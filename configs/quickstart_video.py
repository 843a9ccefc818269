"""Text-to-video generation: one shape that moves as the caption says, in a quarter of an hour on a laptop.

The visual tokenizer is trained first, on images and then on clips, then a masked generator on its codes; one command
does all three.

Arguments: size=32 (pixels), frames=8, tiny (ends in seconds, too soon for clips).
"""

from copy import deepcopy

import quickstart
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=32, frames=8)
    config: ConfigDict = quickstart.get_config(f"size={arg.size}" + (",tiny" if arg.tiny else ""))
    images = config.components.visual_tokenizer
    # 8 frames become 3: the first, and 4 at a time.
    images.model.time_strides = (1, 2) if arg.tiny else (2, 2) if arg.size < 64 else (1, 2, 2)
    tokenizer = deepcopy(images)
    tokenizer.evaluate.evaluators = ("losses", "reconstruction", "codes", "motion")
    # A step sees more variety in 16 images than in 8 clips, whose frames are alike.
    tokenizer.pretraining = images
    config.components.visual_tokenizer = tokenizer
    for part in (tokenizer, config):
        part.data.frames = arg.frames
        part.data.scenes = {"examples": 64 if arg.tiny else 5_000}
    if not arg.tiny:
        tokenizer.train.update({"batch": 8, "steps": 400, "evaluate_every": 400, "checkpoint_every": 200})
        config.train.update({"batch": 8, "steps": 1750, "evaluate_every": 1750, "checkpoint_every": 500})
        config.model.layers = 2
    config.train.best_metric = "scenes/motion"
    config.evaluate.update({"evaluators": ("losses", "motion"), "batch": 8 if arg.tiny else 32})
    config.sampling.temperature = 0.5
    return config
