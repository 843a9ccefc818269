"""How much saving delays the next step: the copy to the disk should go on behind it.

    python benchmarks/saving.py                       300M parameters: 12 GB of memory, 4 GB of disk
    python benchmarks/saving.py --layers=1 --batch=8  in a minute, to see that it works

A direct generator with Adam is trained as `mmjax train` does. Now and then it is saved: the state's fingerprints are
computed, the arrays copied, and written while the next steps run. The delay is what the step with the save and the one
after it take longer than two other steps do.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax

from mmjax import data
from mmjax.commands import trainer, wiring
from mmjax.config import resolve
from mmjax.train.checkpoint import Checkpoints

WIDTH = 1024
LARGEST_SHARE = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=17, help="of the fusion, 17M parameters each")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--saves", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), arguments.layers, arguments.batch, arguments.saves)


def measure(folder: Path, layers: int, batch: int, saves: int) -> int:
    model = {"kind": "direct", "width": WIDTH, "heads": 16, "text_layers": 1, "fusion_layers": layers}
    model |= {"reference": False, "convolution": "matmul"}
    config = resolve({"model": model, "data": {"size": 32}, "train": {"batch": batch, "steps": 1000}})
    source = data.open_source(config.data, training=True, seed=0)
    tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), config.text.vocabulary))
    parts = wiring.build(config)
    training = trainer.build_training(parts, config.train.steps)
    state = training.make_state()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{count / 1e6:.0f}M parameters, batches of {batch}", flush=True)
    checkpoints = Checkpoints(folder, keep=1, best="")
    usual, delayed = [], []
    with wiring.closing(data.training_batches(source, tokenizer, config)) as batches:

        def step(save: bool) -> float:
            nonlocal state
            begin = time.perf_counter()
            state, _ = training.step(state, parts.placement.put(next(batches)))
            jax.block_until_ready(state.step)
            if save:
                checkpoints.save(state, {})
            took = time.perf_counter() - begin
            print(f"step {int(state.step)}: {took:.2f} s{', saved' if save else ''}", flush=True)
            return took

        step(save=False)
        step(save=True)  # which compiles the fingerprints
        for _ in range(saves):
            checkpoints.wait()
            usual += [step(save=False), step(save=False)]
            delayed.append(step(save=True) + step(save=False))
    checkpoints.close()
    ordinary = statistics.median(usual)
    share = (statistics.median(delayed) - 2 * ordinary) / ordinary
    print(f"a step takes {ordinary:.2f} s, with saving {statistics.median(delayed):.2f} s for two")
    print(f"saving delays the next step by {100 * share:.1f}% of a step; at most {100 * LARGEST_SHARE:.0f}% is wanted")
    return int(share > LARGEST_SHARE)


if __name__ == "__main__":
    sys.exit(main())
