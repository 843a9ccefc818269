"""A visual tokenizer of images with 1,000 codes, trained on COCO by mean absolute and squared error.

Arguments: size=64 (pixels), adversarial (adds a discriminator from step 2,000 on), tiny (ends in seconds).
With adversarial, --config.perceptual.weights=FILE adds LPIPS; without a file, discriminator features are matched.
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/). --config.data.source=scenes draws
images instead, and needs --config.data.flip=false.
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, adversarial=False)
    size = arg.size or (32 if arg.tiny else 64)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": True}
    config.model = {
        "kind": "visual_tokenizer",
        "widths": (64, 128) if small else (64, 128, 256),
        "blocks": 1 if small else 2,
        "levels": (8, 5, 5, 5),
    }
    config.losses = presets.tokenizer_losses(arg.adversarial)
    config.optimizer = presets.optimizer(1e-3, 100, b2=0.99, ema_decay=0.999)
    config.train = {"batch": 64, "epochs": 10, "best_metric": "-loss"}
    config.evaluate = {"evaluators": ("losses", "reconstruction", "codes"), "batch": 64, "samples": 8}
    if arg.adversarial:
        config.discriminator = {
            "loss": "non_saturating",
            "widths": (64, 128) if small else (64, 128, 256),
            "regularizer": "lecam",
            "regularizer_weight": 0.01,
            "learning_rate": 1e-4,
            "train_from": 1000,
            "start": 2000,
        }
        config.evaluate.evaluators += ("feature_distance",)
    if arg.tiny:
        presets.shrink(config, widths=(16, 32), blocks=1)
        if arg.adversarial:
            config.discriminator.update({"widths": (16, 32), "train_from": 1, "start": 2})
    return config
