"""Pictures of two things from captions that leave their sizes and places open, in minutes on a laptop.

A visual tokenizer is trained first, then a masked generator on its codes; one command does both.

Arguments: tiny (ends in seconds, too soon to draw anything).
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument)
    data = {"source": "scenes", "size": 32, "scenes": {"examples": 20_000, "determined": False}}
    text = {"length": 12, "vocabulary": 512}
    tokenizer = ConfigDict()
    tokenizer.data = data
    tokenizer.text = text
    tokenizer.model = {
        "kind": "visual_tokenizer",
        "widths": (32, 64),
        "blocks": 1,
        "levels": (8, 6, 5),
        "convolution": "matmul",  # for CPUs
    }
    tokenizer.objective = {"terms": {"mean_absolute_error": 1.0, "mean_squared_error": 1.0}}
    tokenizer.optimizer = {
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_steps": 50,
        "b2": 0.98,
        "clip": 1.0,
        "ema": 0.99,
    }
    tokenizer.train = {"batch": 32, "steps": 800, "log_every": 10, "evaluate_every": 400, "checkpoint_every": 200}
    tokenizer.evaluate = {"evaluators": ("losses", "reconstruction", "codes", "scenes"), "batch": 64, "samples": 16}

    config = ConfigDict()
    config.data = data
    config.text = text
    config.tokenizer = tokenizer
    config.model = {
        "kind": "masked_generator",
        "width": 128,
        "heads": 4,
        "layers": 4,
        "text_layers": 2,
        "unroll": 4,  # for CPUs
    }
    config.objective = {"terms": {"masked_visual_modeling": 1.0}, "drop_text": 0.1, "label_smoothing": 0.0}
    config.sampling = {"steps": 12, "guidance": 3.0}
    config.optimizer = {
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_steps": 50,
        "b2": 0.98,
        "clip": 1.0,
        "ema": 0.995,
    }
    config.train = {
        "batch": 64,
        "steps": 1000,
        "log_every": 10,
        "evaluate_every": 500,
        "checkpoint_every": 250,
        "best": "scenes/all",
    }
    config.evaluate = {"evaluators": ("losses", "scenes", "diversity"), "batch": 64, "samples": 16}
    if arg.tiny:
        small = {"batch": 8, "steps": 4, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2}
        for part in (tokenizer, config):
            part.data = data | {"evaluation_examples": 16, "scenes": {"examples": 64, "determined": False}}
            part.optimizer.warmup_steps = 2
            part.train.update(small)
            part.evaluate.update({"batch": 8, "samples": 4})
        tokenizer.model.update({"widths": (8, 16), "blocks": 0})
        config.model.update({"width": 32, "layers": 2, "text_layers": 1, "unroll": 1})
        config.sampling.steps = 3
    return config
