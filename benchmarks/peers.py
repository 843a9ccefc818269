"""How many times as fast as PyTorch mmjax is: the same models, sizes, data shapes, optimizers and steps in both.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch      # 3 GB; not needed for anything else
    python benchmarks/peers.py --torch=/tmp/torch/bin/python [--cases=train,tokenizer] [--json=FILE] [--claims=FILE]

Each runs in a process of its own, and their rounds are taken in turn: mmjax, PyTorch, PyTorch with torch.compile,
mmjax, ... The ratio of a case is the median over the rounds of the faster PyTorch's seconds by mmjax's. The models of
PyTorch are in peers_torch.py, the sizes in peers.json. Where diffusers is installed beside PyTorch, a step of its
masked model (aMUSEd) of the same sizes is a third, which has other layers and is not part of the ratio:

    train/128, train/512   a step of the masked generator: forward, backward, AdamW, gradient clipping, EMA
    sample/128             16 images in 12 steps with guidance, and their decoding
    tokenizer              a step of the visual tokenizer
    caption                16 captions of 24 tokens, greedily, with a KV cache

With --claims it fails if a ratio is below the one in that file, which --json writes. On a quiet machine only.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CASES = json.loads((HERE / "peers.json").read_text())
SECONDS = 2.0  # of a round, about


def _training(config: dict[str, Any], batch: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    import jax
    import numpy as np

    from mmjax.config import resolve
    from mmjax.engine import setup, trainer

    training = trainer.build(setup.build(resolve(config)), config["train"]["steps"])
    state = training.make_state()
    placed = jax.device_put(batch | {"mask": np.ones(len(batch["key"]), np.bool_)})

    def step() -> None:
        nonlocal state
        state, metrics = training.step(state, placed)
        jax.block_until_ready(metrics)

    return state.params, step


def _settings(case: dict[str, Any]) -> dict[str, Any]:
    optimizer = {"kind": "adamw", "learning_rate": 1e-3, "grad_clip_norm": 1.0, "ema_decay": 0.99}
    return {"optimizer": optimizer, "train": {"batch": case["batch"], "steps": 100}, "evaluate": {"batch": 16}}


def tokenizer_config(case: dict[str, Any], size: int) -> dict[str, Any]:
    return {
        "data": {"source": "scenes", "size": size},
        "text": {"length": case.get("length", 8), "vocabulary": case.get("vocabulary", 512)},
        "model": {
            "kind": "visual_tokenizer",
            "widths": case.get("widths", (32, 64)),
            "blocks": case.get("blocks", 0),
            "levels": case["levels"],
        },
        "losses": {"mean_absolute_error": {"weight": 1.0}, "mean_squared_error": {"weight": 1.0}},
        **_settings(case),
    }


def generator_config(case: dict[str, Any]) -> dict[str, Any]:
    """The config of a masked generator; its images have a cell of the tokenizer's stride for each code."""
    tokenizer = tokenizer_config(case, case["grid"] << len(case.get("widths", (32, 64))))
    model = {name: case[name] for name in ("width", "heads", "layers", "text_layers")}
    return {
        "data": tokenizer["data"],
        "text": tokenizer["text"],
        "components": {"visual_tokenizer": tokenizer},
        "model": {"kind": "masked_generator", **model},
        "losses": {"masked_visual_modeling": {"weight": 1.0}},
        "sampling": {"steps": case.get("steps", 12), "guidance": 3.0, "refinement_steps": 0},
        **_settings(case),
    }


def masked_training(case: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    import numpy as np

    rng, count = np.random.default_rng(0), case["batch"]
    batch = {
        "text": rng.integers(3, case["vocabulary"], (count, case["length"]), np.int32),
        "codes": rng.integers(0, np.prod(case["levels"]), (count, case["grid"], case["grid"]), np.int32),
        "key": np.zeros((count, 2), np.uint32),
    }
    return _training(generator_config(case), batch)


def masked_sampling(case: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    import jax
    import numpy as np

    from mmjax import models
    from mmjax.config import resolve
    from mmjax.models.masked_generator import model_fns
    from mmjax.sample.masked import make_sampler

    config = resolve(generator_config(case))
    params, tokenizer_params = (
        jax.jit(lambda key, part=part: models.init(part, key))(jax.random.key(0))
        for part in (config, config.component("visual_tokenizer"))
    )
    compute = models.resolve_compute(config.compute, jax.default_backend())
    sample = jax.jit(make_sampler(model_fns(config, compute), config.sampling))
    count, grid = case["batch"], case["grid"]
    text = np.random.default_rng(0).integers(3, case["vocabulary"], (count, case["length"]), np.int32)
    inputs = text, np.zeros((count, grid, grid), np.int32), np.ones((count, grid, grid), np.bool_)
    rest = np.arange(count, dtype=np.int32), np.float32(3.0)
    return params, lambda: sample(params, tokenizer_params, *inputs, *rest).block_until_ready()


def tokenizer_training(case: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    import numpy as np

    image = np.random.default_rng(0).uniform(-1, 1, (case["batch"], case["size"], case["size"], 3)).astype(np.float32)
    batch = {"image": image, "key": np.zeros((len(image), 2), np.uint32)}
    return _training(tokenizer_config(case, case["size"]), batch)


def captioner_config(case: dict[str, Any]) -> dict[str, Any]:
    model = {name: case[name] for name in ("width", "heads", "layers", "decoder_layers", "patch")}
    return {
        "data": {"source": "scenes", "size": case["size"]},
        "text": {"length": case["length"], "vocabulary": case["vocabulary"]},
        "model": {"kind": "vision_language", **model},
        "losses": {"captioning": {"weight": 1.0}},
        **_settings(case),
    }


def captioning(case: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    import jax
    import numpy as np

    from mmjax import models
    from mmjax.config import resolve
    from mmjax.sample.text import TextDecoding, make_text_generator
    from mmjax.types import MASK

    config = resolve(captioner_config(case))
    params = jax.jit(lambda key: models.init(config, key))(jax.random.key(0))
    bias = params["decoder"]["bias"]
    params["decoder"]["bias"] = bias.at[: MASK + 1].set(-1e9)  # captions of full length
    compute = models.resolve_compute(config.compute, jax.default_backend())
    functions = models.find(config).model_fns
    assert functions
    generate = jax.jit(make_text_generator(functions(config, compute), TextDecoding.of(config)))
    image = np.random.default_rng(0).uniform(-1, 1, (case["batch"], case["size"], case["size"], 3)).astype(np.float32)
    seeds = np.arange(len(image), dtype=np.int32)
    assert np.all(np.asarray(generate(params, image, seeds)) > MASK)
    return params, lambda: generate(params, image, seeds).block_until_ready()


BUILD = {"train": masked_training, "sample": masked_sampling, "tokenizer": tokenizer_training, "caption": captioning}


def worker() -> None:
    """The side of mmjax, with the protocol of peers_torch.py."""
    import jax

    step: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        order, value = line.split(maxsplit=1)
        if order == "build":
            name, sizes = value.split(maxsplit=1)
            params, step = BUILD[name.partition("/")[0]](json.loads(sizes))
            for _ in range(2):
                step()
            answer: Any = sum(leaf.size for leaf in jax.tree.leaves(params))
        else:
            start = time.perf_counter()
            for _ in range(int(value)):
                step()
            answer = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


class Peer:
    """A process that answers "build NAME SIZES" and "run COUNT"."""

    def __init__(self, *command: str) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, order: str, value: str | int) -> float:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{order} {value}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"peers: {' '.join(self.process.args)} ended with status {self.process.wait()}")
        return float(json.loads(answer))

    def close(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def alternated(
    commands: Mapping[str, Sequence[str]], name: str, case: dict[str, Any], rounds: int, seconds: float = SECONDS
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The number of parameters, and the seconds of an iteration in each round, of peers that are measured in turn.

    Args:
        commands: of the peers, which are started again, so that no case runs in the memory of another.
        seconds: of a peer's part of a round, about.
    """
    peers = {peer: Peer(*command) for peer, command in commands.items()}
    try:
        sizes = {peer: each.ask("build", f"{name} {json.dumps(case)}") for peer, each in peers.items()}
        counts = {peer: max(round(seconds / each.ask("run", 1)), 1) for peer, each in peers.items()}
        times: dict[str, list[float]] = {peer: [] for peer in peers}
        for _ in range(rounds):
            for peer, each in peers.items():
                times[peer].append(each.ask("run", counts[peer]) / counts[peer])
    finally:
        for each in peers.values():
            each.close()
    return sizes, times


def speedup(times: Mapping[str, Sequence[float]], others: Sequence[str]) -> float:
    """How many times as fast mmjax is as the fastest of the others: the median over the rounds."""
    best = min((times[name] for name in others), key=statistics.median)
    return statistics.median(b / a for a, b in zip(times["mmjax"], best, strict=True))


def installed(python: str, package: str) -> bool:
    """Whether a Python has a package; False where there is no such Python."""
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        return subprocess.run([python, "-c", found], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def peer_commands(torch: str, ways: Sequence[str], diffusers: bool) -> dict[str, tuple[str, ...]]:
    """The commands of mmjax, and of PyTorch and diffusers in each way, "eager" or "compiled"."""
    commands = {"mmjax": (sys.executable, str(HERE / "peers.py"), "--worker")}
    commands |= {f"PyTorch {way}": (torch, str(HERE / "peers_torch.py"), way) for way in ways}
    if diffusers:
        commands |= {f"diffusers {way}": (torch, str(HERE / "peers_diffusers.py"), way) for way in ways}
    return commands


def compare(commands: Mapping[str, Sequence[str]], case: str, rounds: int) -> float:
    """Prints a row of the table, and returns how many times as fast as PyTorch mmjax is."""
    taken = {peer: each for peer, each in commands.items() if case.startswith("train/") or "diffusers" not in peer}
    sizes, times = alternated(taken, case, CASES[case], rounds)
    ratio = speedup(times, [peer for peer in taken if peer.startswith("PyTorch")])

    def cell(peer: str) -> str:
        if peer not in times:
            return ""
        count = "" if sizes[peer] == sizes["mmjax"] else f" ({sizes[peer]:,.0f} parameters)"
        return f"{1e3 * statistics.median(times[peer]):.1f}{count}"

    cells = [cell(peer) for peer in commands]
    print(f"| {case} | {sizes['mmjax']:,.0f} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument("--cases", default=",".join(CASES), help="cases, or the first parts of their names")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--json", help="write the ratios to this file")
    parser.add_argument("--claims", help="fail if a ratio is below the one in this file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker()
    ways = ("eager",) if arguments.no_compile else ("eager", "compiled")
    commands = peer_commands(arguments.torch, ways, installed(arguments.torch, "diffusers"))
    wanted = [case for case in CASES if any(case.startswith(name) for name in arguments.cases.split(","))]
    print(f"| case | parameters | {' | '.join(f'{name}, ms' for name in commands)} | ratio |")
    print("|---|---|" + "---|" * (len(commands) + 1))
    ratios = {case: compare(commands, case, arguments.rounds) for case in wanted}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({case: round(ratio, 2) for case, ratio in ratios.items()}) + "\n")
    claims = json.loads(Path(arguments.claims).read_text()) if arguments.claims else {}
    if missed := [
        f"{case} {ratios[case]:.2f} < {claims[case]}" for case in ratios if ratios[case] < claims.get(case, 0)
    ]:
        sys.exit("peers: slower than claimed: " + ", ".join(missed))


if __name__ == "__main__":
    main()
