"""Text-to-image generation on COCO: a masked generator on the codes of a visual tokenizer.

Arguments: size=256 (pixels; 64: 45 million parameters, 128: 120, 256: 300), tiny (ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/).
The visual tokenizer of coco_tokenizer.py is trained first, unless --config.components.visual_tokenizer=WORKDIR names a
trained one. The codes of the data set are cached in WORKDIR/tokens, or --config.tokens.cache=DIR.
"""

import coco_tokenizer
import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments

# Size: width, layers, heads, layers of the text encoder.
SIZES = {64: (512, 8, 8, 2), 128: (768, 10, 12, 3), 256: (1024, 14, 16, 4)}


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0)
    size = arg.size or (32 if arg.tiny else 256)
    width, layers, heads, text_layers = SIZES[min(SIZES, key=lambda pixels: (pixels < size, pixels))]
    config = ConfigDict()
    tokenizer = coco_tokenizer.get_config(f"size={size}" + (",tiny" if arg.tiny else ""))
    config.components = {"visual_tokenizer": tokenizer}
    config.data = {"source": "coco_folder", "size": size, "flip": True}
    config.text = {"length": 32 if size <= 64 else 48, "vocabulary": 8192}
    config.tokens = {"num_augmentations": 4}
    config.model = {
        "kind": "masked_generator",
        "width": width,
        "heads": heads,
        "layers": layers,
        "text_layers": text_layers,
    }
    config.losses = {"masked_visual_modeling": {"weight": 1.0}, "masked_language_modeling": {"weight": 0.1}}
    config.model.text_dropout = 0.1
    config.compute = {"remat": size > 64}
    config.sampling = {"steps": 16, "guidance": 4.0}
    config.optimizer = presets.optimizer(2e-4, 5000, b2=0.96, ema_decay=0.9999, kind="adamw", weight_decay=0.03)
    config.train = {
        "batch": 256,
        "steps": 100_000,
        "best_metric": "-loss",
        "evaluate_every": 5000,
        "checkpoint_every": 5000,
    }
    config.evaluate = {"evaluators": ("losses",), "batch": 64, "samples": 16}
    if arg.tiny:
        presets.shrink(config, width=32, heads=8, layers=2, text_layers=1)
        config.tokens.num_augmentations = 2
        config.sampling.steps = 3
    return config
