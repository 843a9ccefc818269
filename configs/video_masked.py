"""Text-to-video generation on a folder of captioned clips: a masked generator on the codes of a visual tokenizer.

Arguments: size=128 (pixels), frames=16 (8 a second), tiny (ends in seconds).
Needs --config.data.root=DIR: DIR/train/ and DIR/validation/ of clips (mp4, gif or folders of frames), each with a
captions.jsonl with a line per clip, {"clip": "name.mp4", "captions": ["what it shows"]}.
The visual tokenizer of video_tokenizer.py is trained first, unless --config.components.visual_tokenizer=WORKDIR names a
trained one.
"""

import presets
import video_tokenizer
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, frames=0)
    size, frames = arg.size or (32 if arg.tiny else 128), arg.frames or (5 if arg.tiny else 16)
    config = ConfigDict()
    tiny = ",tiny" if arg.tiny else ""
    tokenizer = video_tokenizer.get_config(f"size={size},frames={frames}{tiny}")
    config.components = {"visual_tokenizer": tokenizer}
    config.data = {"source": "clips_folder", "size": size, "frames": frames, "frame_rate": 8.0, "flip": True}
    config.text = {"length": 32, "vocabulary": 8192}
    config.tokens = {"num_augmentations": 4}
    config.model = {
        "kind": "masked_generator",
        "width": 768,
        "heads": 12,
        "layers": 12,
        "text_layers": 4,
    }
    config.losses = {"masked_visual_modeling": {"weight": 1.0, "label_smoothing": 0.1}}
    config.model.text_dropout = 0.1
    config.compute = {"remat": True}
    config.sampling = {"steps": 24, "guidance": 4.0}
    config.optimizer = presets.optimizer(1e-4, 5000, b2=0.96, ema_decay=0.9999, kind="adamw", weight_decay=0.045)
    config.train = {
        "batch": 128,
        "steps": 75_000,
        "best_metric": "-loss",
        "evaluate_every": 5000,
        "checkpoint_every": 5000,
    }
    config.evaluate = {"evaluators": ("losses",), "batch": 16, "samples": 4}
    if arg.tiny:
        presets.shrink(config, width=32, heads=8, layers=2, text_layers=1)
        config.tokens.num_augmentations = 2
        config.sampling.steps = 3
    return config
