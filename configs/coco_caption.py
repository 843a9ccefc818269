"""Captions of COCO's pictures, token after token.

Arguments: size=224 (pixels; 64 and less suit a laptop), tiny (ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/), or another source by
--config.data.source. --config.train.initialize=WORKDIR starts from a model of the same parts.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= 64
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": True}
    config.text = {"length": 32, "vocabulary": 2000 if small else 8192}
    config.model = {
        "kind": "vision_language",
        "patch": 8 if small else 16,
        "stem": (32, 64, 96) if small else (64, 128, 256),
        "width": 128 if small else 512,
        "heads": 4 if small else 8,
        "layers": 2 if small else 12,
        "decoder_layers": 2 if small else 6,
        "dtype": "float32" if small else "bfloat16",
        "convolution": "matmul" if small else "native",  # for CPUs, for TPUs and GPUs
        "unroll": 2 if small else 1,
    }
    config.objective = {"terms": {"captioning": 1.0}}
    config.writing = {"beams": 3, "length_penalty": 0.6}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3 if small else 5e-4,
        "schedule": "cosine",
        "warmup_steps": 100 if small else 2000,
        "b2": 0.98,
        "weight_decay": 0.05,
        "clip": 1.0,
        "ema": 0.99 if small else 0.9999,
    }
    config.train = {"batch": 32 if small else 256, "epochs": 20, "best": "captions/cider"}
    config.evaluate = {"evaluators": ("losses", "captions"), "batch": 32, "samples": 16}
    if arg.tiny:
        config.data.evaluation_examples = 16
        config.text.vocabulary = 400
        config.optimizer.warmup_steps = 2
        config.model.update({"width": 32, "stem": (8,), "layers": 1, "decoder_layers": 1, "unroll": 1})
        config.train.update({"batch": 8, "epochs": 0, "steps": 4})
        config.train.update({"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
        config.evaluate.update({"batch": 8, "samples": 4})
    return config
