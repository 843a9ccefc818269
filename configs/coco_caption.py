"""Image captioning on COCO.

Arguments: size=224 (pixels; 64 or less suits a laptop), tiny (ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/), or another --config.data.source.
--config.train.init_from=WORKDIR starts from the model of coco_pretrain.py.
"""

import coco_pretrain
import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": True}
    config.text = coco_pretrain.text(size)
    config.model = coco_pretrain.model(size)
    config.losses = {"captioning": {"weight": 1.0}}
    config.text_decoding = {"beams": 3, "length_penalty": 0.6}
    config.optimizer = coco_pretrain.optimizer(size, 1e-3 if small else 5e-4)
    config.train = {"batch": 32 if small else 256, "epochs": 20, "best_metric": "captions/cider"}
    config.evaluate = {"evaluators": ("losses", "captions"), "batch": 32, "samples": 16}
    if arg.tiny:
        coco_pretrain.shrink(config)
    return config
