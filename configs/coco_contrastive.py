"""Contrastive pretraining on COCO: a shared embedding of images and captions, for search and zero-shot classification.

Arguments: size=224 (pixels; 64 or less suits a laptop), sigmoid (pairwise sigmoid loss instead of InfoNCE), tiny (ends
in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/), or another --config.data.source.
--config.train.init_from=WORKDIR starts from the model of coco_pretrain.py.
"""

import coco_pretrain
import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, sigmoid=False)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": True}
    config.text = coco_pretrain.text(size)
    config.model = coco_pretrain.model(size)
    config.losses = {"sigmoid_contrastive" if arg.sigmoid else "contrastive": {"weight": 1.0}}
    config.optimizer = coco_pretrain.optimizer(size, 1e-3) | {"weight_decay": 0.2, "ema_decay": 0.0}
    config.train = {"batch": 128 if small else 1024, "epochs": 30, "best_metric": "retrieval/text_to_image_r5"}
    config.evaluate = {"evaluators": ("losses", "retrieval"), "batch": 64, "samples": 0}
    if arg.tiny:
        coco_pretrain.shrink(config)
    return config
