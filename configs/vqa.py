"""Answers to questions about COCO's pictures: VQAv2 or A-OKVQA, written token after token.

Arguments: size=224 (pixels; 64 and less suit a laptop), fusion=cross_attention (or joint, mlp, bilinear), classes=0
(above 0: choose among so many of the most frequent answers rather than write), tiny (ends in seconds).
Needs --config.data.root=DIR, a COCO folder, and the files of questions in it, by --config.data.questions and
--config.data.evaluation_questions; those of A-OKVQA are the default.
"""

from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, fusion="cross_attention", classes=0)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= 64
    config = ConfigDict()
    config.data = {
        "source": "vqa",
        "size": size,
        "questions": "annotations/aokvqa_train2017.json",
        "evaluation_questions": "annotations/aokvqa_val2017.json",
        "answers": arg.classes,
    }
    config.text = {"length": 32, "vocabulary": 1000 if small else 8192}
    config.model = {
        "kind": "vision_language",
        "patch": 8 if small else 16,
        "stem": (32, 64, 96) if small else (64, 128, 256),
        "width": 128 if small else 512,
        "heads": 4 if small else 8,
        "layers": 2 if small else 12,
        "text_layers": 1 if small else 6,
        "fusion_layers": 1 if small else 4,
        "decoder_layers": 1 if small else 4,
        "fusion": arg.fusion,
        "classify": "question",
        "classes": arg.classes,
        "dtype": "float32" if small else "bfloat16",
        "convolution": "matmul" if small else "native",  # for CPUs, for TPUs and GPUs
    }
    config.objective = {"terms": {"classification" if arg.classes else "answering": 1.0}}
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 1e-3 if small else 5e-4,
        "schedule": "cosine",
        "warmup_steps": 50 if small else 2000,
        "b2": 0.98,
        "weight_decay": 0.05,
        "clip": 1.0,
        "ema": 0.99 if small else 0.9999,
    }
    config.train = {"batch": 32 if small else 512, "epochs": 20}
    config.evaluate = {"evaluators": ("losses", "answers"), "batch": 32, "samples": 16}
    config.train.best = "vqa/accuracy"
    if arg.classes:
        config.evaluate.evaluators = ("losses", "classification")
        config.train.best = "classification/accuracy"
    if arg.tiny:
        config.data.evaluation_examples = 16
        config.text.vocabulary = 400
        config.optimizer.warmup_steps = 2
        config.model.update({"width": 32, "stem": (8,), "layers": 1})
        config.train.update({"batch": 8, "epochs": 0, "steps": 4})
        config.train.update({"log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
        config.evaluate.update({"batch": 8, "samples": 4})
    return config
