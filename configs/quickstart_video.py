"""Clips of a thing that moves, from captions that tell what and where to, in a quarter of an hour on a laptop.

A visual tokenizer is trained first, on images and then on clips, and a masked generator on its codes: all by one
command.

Arguments: size=32 (pixels), frames=8, tiny (ends in seconds, too soon to draw anything).
"""

from copy import deepcopy

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=32, frames=8)
    data = {"source": "scenes", "size": arg.size, "frames": arg.frames, "scenes": {"examples": 5_000}}
    data["evaluation_examples"] = 128  # drawing takes longer than learning; `mmjax evaluate` can be told to take all
    text = {"length": 12, "vocabulary": 512}
    tokenizer = ConfigDict()
    tokenizer.data = data
    tokenizer.text = text
    tokenizer.model = {
        "kind": "visual_tokenizer",
        "widths": (32, 64) if arg.size < 64 else (32, 64, 64),
        "time_strides": (2, 2) if arg.size < 64 else (1, 2, 2),  # 8 frames become 3: the first, and 4 at a time
        "blocks": 1,
        "levels": (8, 6, 5),
    }
    tokenizer.losses = {"mean_absolute_error": {"weight": 1.0}, "mean_squared_error": {"weight": 1.0}}
    tokenizer.model.code_noise_prob = 0.1  # so that the decoder mends what the generator gets slightly wrong
    tokenizer.optimizer = {
        "kind": "muon",
        "learning_rate": 6e-3,
        "schedule": "cosine",
        "warmup_steps": 50,
        "b2": 0.98,
        "grad_clip_norm": 1.0,
        "ema_decay": 0.99,
    }
    tokenizer.train = {"batch": 8, "steps": 400, "log_every": 10, "evaluate_every": 400, "checkpoint_every": 200}
    tokenizer.evaluate = {"evaluators": ("losses", "reconstruction", "codes", "motion"), "batch": 64, "samples": 16}
    # A step sees more of the world in 16 images than in 8 clips, which are mostly repetition.
    images = deepcopy(tokenizer)
    images.data.update({"frames": 1, "scenes": {"examples": 20_000, "fully_specified": False}})
    images.train.update({"batch": 16, "steps": 800, "evaluate_every": 800, "checkpoint_every": 400})
    images.evaluate.evaluators = ("losses", "reconstruction", "codes", "scenes")
    tokenizer.pretraining = images

    config = ConfigDict()
    config.data = data
    config.text = text
    config.components = {"visual_tokenizer": tokenizer}
    config.model = {
        "kind": "masked_generator",
        "width": 128,
        "heads": 4,
        "layers": 2,
        "text_layers": 2,
        "local_blocks": 2,
    }
    config.losses = {"masked_visual_modeling": {"weight": 1.0, "label_smoothing": 0.0}}
    config.model.text_dropout = 0.1
    config.sampling = {
        "steps": 12,
        "order": "halton",
        "guidance": 3.0,
        "temperature": 0.5,
        "refinement_steps": 8,
        "refinement_temperature": 0.3,
    }
    config.optimizer = {
        "kind": "muon",
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "warmup_steps": 50,
        "b2": 0.98,
        "grad_clip_norm": 1.0,
        "ema_decay": 0.995,
    }
    config.train = {
        "batch": 8,
        "steps": 1750,
        "log_every": 20,
        "evaluate_every": 1750,
        "checkpoint_every": 500,
        "best_metric": "scenes/motion",
    }
    config.evaluate = {"evaluators": ("losses", "motion"), "batch": 32, "samples": 16}
    if arg.tiny:
        small = {"batch": 8, "steps": 4, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2}
        for part in (tokenizer, config, images):
            part.data.update({"evaluation_examples": 16, "scenes": {"examples": 64}})
            part.optimizer.warmup_steps = 2
            part.train.update(small)
            part.evaluate.update({"batch": 8, "samples": 4})
        for part in (tokenizer, images):
            part.model.update({"widths": (8, 16), "time_strides": (1, 2), "blocks": 0})
        config.model.update({"width": 32, "layers": 2, "text_layers": 1})
        config.sampling.update({"steps": 3, "refinement_steps": 1})
    return config
