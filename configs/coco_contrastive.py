"""Pictures and captions of COCO in one space, where what belongs together is near: for search and zero-shot classes.

Arguments: size=224 (pixels; 64 and less suit a laptop), sigmoid (a decision for each pair, in place of a softmax), tiny
(ends in seconds).
Needs --config.data.root=DIR: a COCO folder (train2017/, val2017/, annotations/), or another source by
--config.data.source.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, sigmoid=False)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= 64
    config = ConfigDict()
    config.data = {"source": "coco_folder", "size": size, "flip": True}
    config.text = {"length": 32, "vocabulary": 1000 if small else 8192}
    config.model = {
        "kind": "vision_language",
        "patch": 8 if small else 16,
        "stem": (32, 64, 96) if small else (64, 128, 256),
        "width": 128 if small else 512,
        "heads": 4 if small else 8,
        "layers": 2 if small else 12,
        "text_layers": 1 if small else 6,
        "embedding": 64 if small else 256,
        "dtype": "float32" if small else "bfloat16",
        "convolution": "matmul" if small else "native",  # for CPUs, for TPUs and GPUs
    }
    config.objective = {"terms": {"sigmoid_contrastive" if arg.sigmoid else "contrastive": 1.0}}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_steps": 100 if small else 2000,
        "b2": 0.98,
        "weight_decay": 0.2,
        "clip": 1.0,
    }
    config.train = {"batch": 128 if small else 1024, "epochs": 30, "best": "retrieval/text_to_image_r5"}
    config.evaluate = {"evaluators": ("losses", "retrieval"), "batch": 64, "samples": 0}
    if arg.tiny:
        config.data.evaluation_examples = 16
        config.text.vocabulary = 400
        config.optimizer.warmup_steps = 2
        config.model.update({"width": 32, "stem": (8,), "layers": 1, "text_layers": 1, "embedding": 16})
        config.train.update({"batch": 8, "epochs": 0, "steps": 4})
        config.train.update({"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
        config.evaluate.update({"batch": 8, "samples": 4})
    return config
