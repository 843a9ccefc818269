"""A visual tokenizer on a folder of clips: clips and images to grids of 1,000 codes and back.

Arguments: size=128 (pixels; 64 is for a laptop), frames=16 (8 a second), adversarial (against a discriminator
as well, from step 2,000 on), tiny (ends in seconds).
Needs --config.data.root=DIR: DIR/train/ and DIR/validation/ with clips (mp4, gif or folders of frames) and in each a
captions.jsonl with a line for each clip, {"clip": "name.mp4", "captions": ["what it shows"]}.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, frames=0, adversarial=False)
    size = arg.size or (32 if arg.tiny else 128)
    small = size <= 64
    config = ConfigDict()
    config.data = {
        "source": "clips_folder",
        "size": size,
        "frames": arg.frames or (5 if arg.tiny else 16),
        "frame_rate": 8.0,
        "flip": True,  # to be switched off where captions tell left from right
    }
    config.model = {
        "kind": "visual_tokenizer",
        "widths": (64, 128) if small else (64, 128, 256),
        "time_strides": (1, 2) if small else (1, 2, 2),  # 16 frames become 9, or 5
        "blocks": 1 if small else 2,
        "levels": (8, 5, 5, 5),
    }
    config.losses = {"mean_absolute_error": {"weight": 1.0}, "mean_squared_error": {"weight": 1.0}}
    config.optimizer = {
        "learning_rate": 5e-4,
        "schedule": "cosine",
        "warmup_steps": 500,
        "b2": 0.99,
        "grad_clip_norm": 1.0,
        "ema_decay": 0.999,
    }
    config.train = {"batch": 16, "epochs": 20, "best_metric": "-loss"}
    config.evaluate = {"evaluators": ("losses", "reconstruction", "codes"), "batch": 16, "samples": 4}
    if arg.adversarial:
        config.losses.update({name: {"weight": 0.1} for name in ("feature_matching", "adversarial")})
        config.discriminator = {
            "widths": (64, 128) if small else (64, 128, 256),
            "train_from": 1000,
            "start": 2000,
        }
    if arg.tiny:
        config.data.evaluation_examples = 16
        config.optimizer.warmup_steps = 2
        config.model.update({"widths": (16, 32), "time_strides": (1, 2), "blocks": 1})
        if arg.adversarial:
            config.discriminator.update({"widths": (16, 32), "train_from": 1, "start": 2})
        config.text = {"vocabulary": 400}
        config.train.update({"batch": 8, "epochs": 0, "steps": 4})
        config.train.update({"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
        config.evaluate.update({"batch": 8, "samples": 4})
    return config
