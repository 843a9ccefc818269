"""A baseline for direct generators: the mean image of the training set for every prompt.

    python benchmarks/mean_image.py --workdir=runs/coco

Prints its mean squared error on the evaluation images (from -1 to 1), that of the workdir's newest evaluation, and
their difference in decibels.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path

import numpy as np

from mmjax import data
from mmjax.config import Config
from mmjax.train.workdir import read_config


def images(config: Config, tokenizer: data.Tokenizer, split: str):
    """The images of a split as in evaluation, float32 [y, x, c]."""
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, evaluation_split=split))
    source = data.open_source(config.data, training=False, seed=config.seed)
    for batch in data.evaluation_batches(source, tokenizer, config):
        yield from batch["image"][batch["mask"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="of mmjax train on COCO")
    workdir = parser.parse_args().workdir
    config = read_config(workdir)
    tokenizer = data.load_tokenizer(workdir / "tokenizer.model")
    mean = np.mean(list(images(config, tokenizer, config.data.train_split)), axis=0, dtype=np.float64)
    baseline = np.mean([np.mean((p - mean) ** 2) for p in images(config, tokenizer, config.data.evaluation_split)])
    newest = max((workdir / "evaluation").glob("*[0-9].json"), key=lambda path: int(path.stem))
    model = json.loads(newest.read_text())["mean_squared_error"]
    print(f"mean image of the training set: mean squared error {baseline:.4f}")
    print(f"step {newest.stem}: mean squared error {model:.4f}")
    print(f"ahead by {10 * math.log10(guess / model):.2f} dB")


if __name__ == "__main__":
    main()
