"""Visual question answering on COCO: VQAv2 or A-OKVQA.

Arguments: size=224 (pixels; 64 or less suits a laptop), fusion=cross_attention (or joint, mlp, bilinear), classes=0
(above 0: classifies among the most frequent answers instead of generating text), tiny (ends in seconds).
Needs --config.data.root=DIR, a COCO folder, and its question files, --config.data.questions and
--config.data.evaluation_questions (default: A-OKVQA). --config.train.init_from=WORKDIR starts from the model of
coco_pretrain.py.
"""

import coco_pretrain
import presets
from ml_collections import ConfigDict

from mmjax.config import parse_arguments


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, size=0, fusion="cross_attention", classes=0)
    size = arg.size or (32 if arg.tiny else 224)
    small = size <= presets.LAPTOP
    config = ConfigDict()
    config.data = {
        "source": "vqa",
        "size": size,
        "questions": "annotations/aokvqa_train2017.json",
        "evaluation_questions": "annotations/aokvqa_val2017.json",
        "num_answer_classes": arg.classes,
    }
    config.text = coco_pretrain.text(size)
    config.model = coco_pretrain.model(size, fusion=arg.fusion, classify="question", classes=arg.classes)
    config.losses = {"classification" if arg.classes else "answering": {"weight": 1.0}}
    config.optimizer = coco_pretrain.optimizer(size, 1e-3 if small else 5e-4)
    config.train = {"batch": 32 if small else 512, "epochs": 20}
    config.evaluate = {"evaluators": ("losses", "answers"), "batch": 32, "samples": 16}
    config.train.best_metric = "vqa/accuracy"
    if arg.classes:
        config.evaluate.evaluators = ("losses", "classification")
        config.train.best_metric = "classification/accuracy"
    if arg.tiny:
        coco_pretrain.shrink(config)
    return config
