"""A config of things that are no part of mmjax: mmjax train --config=my_config.py --workdir=DIR."""

from ml_collections import ConfigDict


def get_config(argument: str | None = None) -> ConfigDict:
    config = ConfigDict()
    config.data = {"source": "my_package.squares:SOURCE", "size": 16, "options": {"examples": 64}}
    config.text = {"length": 7, "vocabulary": 300}
    config.model = {"kind": "my_package.painter:MODEL", "width": 8}
    config.losses = {"some_pixels": {"kind": "my_package.some_pixels:LOSS", "fraction": 0.3}}
    config.optimizer = {"learning_rate": 0.1}
    config.train = {"batch": 8, "steps": 50, "evaluate_every": 25, "checkpoint_every": 25}
    config.evaluate = {"evaluators": ("losses", "my_package.color_error:EVALUATOR"), "batch": 8, "samples": 4}
    config.train.best_metric = "-color_error"
    return config
