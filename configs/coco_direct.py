"""Direct generation on COCO: caption and reference image in, image out, trained by mean squared error.

Arguments: size=224 (pixels; 64 suits a laptop), tiny (ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/), or with
--config.data.source=coco_tfds the data_dir of the TFDS data set coco_captions.
"""

import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": True}  # resized to size * 256 / 224, then cropped
    config.text = {"length": 32, "vocabulary": 8192}
    config.model = {
        "width": 256,
        "heads": 8,
        "text_layers": 2,
        "vision_layers": 4,
        "fusion_layers": 4,
        "decoder_widths": (96, 64, 32) if small else (128, 96, 64, 32),
    }
    config.losses = {"mean_squared_error": {"weight": 1.0}}
    config.model.reference_dropout = 0.1
    config.optimizer = {"kind": "adam", "learning_rate": 1e-3, "warmup_steps": 200, "grad_clip_norm": 1.0}
    config.train = {"batch": 64, "epochs": 10, "best_metric": "-loss"}  # evaluated and saved every epoch
    config.evaluate = {"evaluators": ("losses", "reconstruction"), "batch": 64, "samples": 8}
    if arg.tiny:
        presets.shrink(config, width=32, text_layers=1, vision_layers=1, fusion_layers=1, decoder_widths=(16, 8))
    return config
