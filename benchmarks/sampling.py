"""Seconds to draw 1, 4 and 16 images with a masked generator after compilation, with and without guidance.

    python benchmarks/sampling.py --model=runs/quickstart/model

Guidance is one call a step on twice the batch. The last line of each count is the ratio of both.
"""

import argparse
import time

import mmjax
from mmjax.export import ImageGenerator

COUNTS, REPEATS = (1, 4, 16), 5


def seconds(model: ImageGenerator, count: int, guidance: float, steps: int, refinement_steps: int) -> float:
    """The best of several, after one that compiles."""
    prompt = "a red circle moving left" if model.config.data.frames > 1 else "a red ring above a blue square"
    times = []
    for seed in range(REPEATS + 1):
        start = time.perf_counter()
        model.generate([prompt] * count, seed=seed, guidance=guidance, steps=steps, refinement_steps=refinement_steps)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder or a workdir")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    model, steps = mmjax.load(arguments.model), arguments.steps
    refinement_steps = model.config.sampling.refinement_steps
    for count in COUNTS:
        times = {}
        for name, guidance, extra in (
            ("unguided", 1.0, 0),
            ("guided", 2.0, 0),
            ("guided and refined", 2.0, refinement_steps),
        ):
            times[name] = seconds(model, count, guidance, steps, extra)
            print(f"{count} images, {steps} + {extra} steps, {name}: {times[name]:.2f} s", flush=True)
        print(f"ratio guided / unguided: {times['guided'] / times['unguided']:.2f}")


if __name__ == "__main__":
    main()
