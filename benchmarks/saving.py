"""How much saving a checkpoint delays the next steps.

    python benchmarks/saving.py                                      300M parameters: 16 GB of memory, 8 GB of disk
    python benchmarks/saving.py --layers=1 --batch=8 --grad-accum-steps=1  in a minute, to see that it works

A direct generator with Adam is trained as in `mmjax train`, and saved now and then: the state's fingerprints are
computed, the arrays copied to the host if they are not there already, and written while the next steps run. The delay
is how much longer the step with the save and the next one take than two other steps. Relative to the step time it
depends on the batch size, which should be a realistic one.

An allocator that returns memory to the system allocates it again at each step and save. This one keeps it:

    LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4 TCMALLOC_RELEASE_RATE=0 python benchmarks/saving.py
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from mmjax import data
from mmjax.config import resolve
from mmjax.engine import setup, trainer
from mmjax.train.checkpoint import Checkpoints

WIDTH = 1024
MAX_FRACTION = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=17, help="of the fusion, 17M parameters each")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--grad-accum-steps", type=int, default=8)
    parser.add_argument("--saves", type=int, default=2, help="that are measured, after one that warms up")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    model = {"kind": "direct_generator", "width": WIDTH, "heads": 16, "text_layers": 1, "reference": ""}
    model |= {"fusion_layers": arguments.layers}
    train = {"batch": arguments.batch, "steps": 1000}
    optimizer = {"grad_accum_steps": arguments.grad_accum_steps}
    config = resolve({"model": model, "data": {"size": 32}, "train": train, "optimizer": optimizer})
    source = data.open_source(config.data, training=True, seed=0)
    tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), config.text.vocabulary))
    experiment = setup.build(config)
    training = trainer.build(experiment, config.train.steps)
    state = training.make_state()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{count / 1e6:.0f}M parameters, batches of {arguments.batch}", flush=True)
    checkpoints = Checkpoints(folder, keep=1, best="")
    usual, delayed = [], []
    with contextlib.closing(data.training_batches(source, tokenizer, config)) as batches:

        def step(save: bool) -> float:
            nonlocal state
            begin = time.perf_counter()
            state, _ = training.step(state, experiment.placement.shard_batch(next(batches)))
            jax.block_until_ready(state.step)
            done = time.perf_counter()
            if save:
                checkpoints.save(state, {})
            end = time.perf_counter()
            saving = f", {end - done:.2f} s of them to begin to save" if save else ""
            print(f"step {int(state.step)}: {end - begin:.2f} s{saving}", flush=True)
            return end - begin

        step(save=False)
        step(save=True)  # which compiles the fingerprints
        step(save=False)
        for _ in range(arguments.saves):
            checkpoints.wait()
            usual += [step(save=False), step(save=False)]
            delayed.append(step(save=True) + step(save=False))
    checkpoints.close()
    ordinary = statistics.median(usual)
    share = (statistics.median(delayed) - 2 * ordinary) / ordinary
    print(f"a step takes {ordinary:.2f} s, with saving {statistics.median(delayed):.2f} s for two")
    print(f"saving delays the next step by {100 * share:.1f}% of a step; at most {100 * MAX_FRACTION:.0f}% is wanted")
    return int(share > MAX_FRACTION)


if __name__ == "__main__":
    sys.exit(main())
