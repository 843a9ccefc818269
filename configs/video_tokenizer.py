"""A visual tokenizer of clips and images with 1,000 codes, trained on a folder of clips.

Arguments: size=128 (pixels; 64 is for a laptop), frames=16 (8 a second), adversarial (adds a discriminator from
step 2,000 on), tiny (ends in seconds).
Needs --config.data.root=DIR: DIR/train/ and DIR/validation/ of clips (mp4, gif or folders of frames), each with a
captions.jsonl with a line per clip, {"clip": "name.mp4", "captions": ["what it shows"]}.
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, frames=0, adversarial=False)
    size = arg.size or (32 if arg.tiny else 128)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {
        "source": "clips_folder",
        "size": size,
        "frames": arg.frames or (5 if arg.tiny else 16),
        "frame_rate": 8.0,
        "flip": True,  # false if captions tell left from right
    }
    config.model = {
        "kind": "visual_tokenizer",
        "widths": (64, 128) if small else (64, 128, 256),
        "time_strides": (1, 2) if small else (1, 2, 2),  # 16 frames become 9, or 5
        "blocks": 1 if small else 2,
        "levels": (8, 5, 5, 5),
    }
    config.losses = presets.tokenizer_losses(arg.adversarial)
    config.optimizer = presets.optimizer(5e-4, 500, b2=0.99, ema_decay=0.999)
    config.train = {"batch": 16, "epochs": 20, "best_metric": "-loss"}
    config.evaluate = {"evaluators": ("losses", "reconstruction", "codes"), "batch": 16, "samples": 4}
    if arg.adversarial:
        config.discriminator = {
            "widths": (64, 128) if small else (64, 128, 256),
            "train_from": 1000,
            "start": 2000,
        }
    if arg.tiny:
        presets.shrink(config, widths=(16, 32), blocks=1, time_strides=(1, 2))
        if arg.adversarial:
            config.discriminator.update({"widths": (16, 32), "train_from": 1, "start": 2})
    return config
