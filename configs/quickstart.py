"""Pictures of two things from captions that determine them, in minutes on a laptop.

Arguments: tiny (ends in seconds, draws nothing yet).
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument)
    config = ConfigDict(
        {
            "data": {"source": "scenes", "size": 32, "scenes": {"examples": 20_000, "determined": True}},
            "text": {"length": 12, "vocabulary": 512},
            "model": {
                "width": 128,
                "heads": 4,
                "text_layers": 2,
                "fusion_layers": 4,
                "reference": False,
                "decoder_widths": (96, 48, 16),
                "upsampling": "matmul",
            },
            "objective": {"terms": {"mean_squared_error": 1.0}},
            "optimizer": {
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "b2": 0.98,
                "clip": 1.0,
                "ema": 0.99,
            },
            "train": {
                "batch": 64,
                "steps": 1500,
                "log_every": 25,
                "evaluate_every": 300,
                "checkpoint_every": 300,
                "best": "scenes/all",
            },
            "evaluate": {"evaluators": ("losses", "reconstruction", "scenes", "samples"), "batch": 64, "samples": 16},
        }
    )
    if arg.tiny:
        config.data.evaluation_examples = 16
        config.data.scenes.examples = 64
        config.model.update({"width": 32, "heads": 8, "text_layers": 1, "fusion_layers": 1, "decoder_widths": (16, 8)})
        config.train.update({"batch": 8, "steps": 4, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
        config.evaluate.update({"batch": 8, "samples": 4})
    return config
