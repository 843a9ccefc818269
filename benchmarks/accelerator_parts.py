"""What accelerator.py measures: the models, the parts, and the function of each. JAX is imported by the functions only.

A part that cannot be had here raises Skipped or ImportError with a line that says why.
"""

import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers

Case = dict[str, Any]
Row = dict[str, Any]

# A model is the function of peers.py that makes its config, and its sizes. Batches are such that a step takes about
# 34 GiB by plan. The images of the visual tokenizer have 256 pixels.
_MASKED: Case = {"grid": 16, "levels": (8, 5, 5, 5), "widths": (64, 128, 256, 256), "length": 32, "vocabulary": 8192}
_CAPTIONER: Case = {"size": 256, "patch": 16, "length": 32, "vocabulary": 8192, "images": 256}


def _sizes(width: int, heads: int, layers: int, batch: int, **others: int) -> Case:
    return {"width": width, "heads": heads, "layers": layers, "batch": batch, **others}


MODELS: dict[str, tuple[Callable[[Case], Case], Case]] = {
    "45M": (peers.generator_config, _MASKED | _sizes(512, 8, 8, 256, text_layers=2)),
    "120M": (peers.generator_config, _MASKED | _sizes(768, 12, 10, 128, text_layers=3)),
    "300M": (peers.generator_config, _MASKED | _sizes(1024, 16, 14, 64, text_layers=4)),
    "captioner": (peers.captioner_config, _CAPTIONER | _sizes(768, 12, 12, 64, decoder_layers=6)),
}
# Instead of these sizes, with --tiny.
_TINY = {"width": 32, "heads": 2, "layers": 2, "text_layers": 1, "decoder_layers": 1, "batch": 4, "grid": 8}
_TINY |= {"levels": (4, 3), "widths": (8, 8), "length": 8, "vocabulary": 300, "patch": 8, "size": 32, "images": 8}

SECONDS, ROUNDS = 0.7, 5  # each median is of so many rounds of about so many seconds

OTHER_ATTENTION = {"gpu": "cudnn", "tpu": "xla"}  # than compute.attention=auto takes
CHIPS = {  # of mmjax/plan/topology.py, where the peak rates and their sources are, by JAX's device_kind
    "NVIDIA A100-SXM4-40GB": "a100",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA A100 80GB PCIe": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}


class Skipped(Exception):
    """What is not here that a part needs."""


@dataclass(frozen=True)
class Settings:
    """How parts are measured.

    Attributes:
        torch: a Python with PyTorch.
        platform: of the device, "cpu", "gpu" or "tpu"; the part with PyTorch must not take the device to ask.
        seconds, rounds: each median is of so many rounds of about so many seconds.
    """

    tiny: bool
    torch: str
    platform: str
    seconds: float
    rounds: int


def device() -> Row:
    """The first device of this machine."""
    import jax

    import mmjax

    first = jax.devices()[0]
    versions = {"jax": jax.__version__, "mmjax": mmjax.__version__}
    limit = (first.memory_stats() or {}).get("bytes_limit")
    return {"platform": first.platform, "kind": first.device_kind, "memory_bytes": limit, **versions}


def peak_flops(kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by the vendor; None for kinds without a published rate."""
    from mmjax.plan import topology

    chip = topology.CHIPS[CHIPS[kind]] if kind in CHIPS else None
    return chip.flops / chip.devices if chip else None


def timed(run: Callable[[int], Any], settings: Settings) -> list[float]:
    """Seconds of each iteration in each round; run(count) iterates and waits for the device."""

    def seconds(count: int) -> float:
        begin = time.perf_counter()
        run(count)
        return (time.perf_counter() - begin) / count

    run(2)
    count = max(round(settings.seconds / seconds(1)), 1)
    return [seconds(count) for _ in range(settings.rounds)]


def _built(case: Case, config: Any) -> tuple[Any, Any, Any]:
    """The experiment on one device, its training, and a placed batch of random values."""
    import jax
    import numpy as np

    from mmjax.config import MeshConfig
    from mmjax.engine import aot_plan, setup, trainer
    from mmjax.parallel import Placement, make_mesh

    experiment = setup.build(config, placement=Placement(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])))
    rng, batch = np.random.default_rng(0), {}
    limits = {"text": case["vocabulary"], "codes": math.prod(case.get("levels", ()))}
    for name, field in aot_plan.batch_shapes(config, config.train.batch).items():
        if np.issubdtype(field.dtype, np.integer):
            batch[name] = rng.integers(3, limits[name], field.shape, field.dtype)
        elif np.issubdtype(field.dtype, np.bool_):
            batch[name] = np.ones(field.shape, field.dtype)
        else:
            batch[name] = rng.uniform(-1, 1, field.shape).astype(field.dtype)
    return experiment, trainer.build(experiment, config.train.steps), experiment.placement.shard_batch(batch)


def step(name: str, settings: Settings, **options: Any) -> Row:
    """The training step in bfloat16: its time, its utilization of the device, and its memory beside the plan."""
    import jax

    from mmjax.config import resolve
    from mmjax.engine import aot_plan
    from mmjax.plan import topology

    config_of, case = model(name, settings.tiny)
    if options.get("attention") == "other":
        if settings.platform not in OTHER_ATTENTION:
            raise Skipped(f"{settings.platform} has no other attention kernel")
        options["attention"] = OTHER_ATTENTION[settings.platform]
    config = resolve(config_of(case) | {"compute": {"dtype": "bfloat16", **options}})
    experiment, training, batch = _built(case, config)
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as pool:
        # By arithmetic, as of GPUs, whichever device this is: for TPUs, mmjax plan compiles, and says what `used` says.
        planned = pool.submit(aot_plan.estimated, config, topology.parse("h100:1"))
        compiled = training.lower(batch).compile()  # before the state, so that what autotuning allocates is no peak
        compile_seconds = time.perf_counter() - begin
    plan = planned.result()
    state, metrics = training.make_state(), {}

    def run(count: int) -> None:
        nonlocal state, metrics
        for _ in range(count):
            state, metrics = compiled(state, batch, experiment.frozen)
        jax.block_until_ready(state)

    times = timed(run, settings)
    loss = float(metrics["loss"])
    if not math.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss}")
    used, first, seconds = compiled.memory_analysis(), jax.devices()[0], statistics.median(times)
    peak, rate = (first.memory_stats() or {}).get("peak_bytes_in_use"), peak_flops(first.device_kind)
    return {
        "model": name,
        "attention": experiment.compute.attention,
        "parameters": plan.parameters,
        "batch": config.train.batch,
        "seconds_per_step": seconds,
        "rounds": times,
        "images_per_second": config.train.batch / seconds,
        "model_flops": plan.step_flops,
        "utilization": rate and plan.step_flops / seconds / rate,
        "peak_bytes": peak,
        "compiled_bytes": used and used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes
        + used.temp_size_in_bytes + used.generated_code_size_in_bytes,
        "plan_bytes": plan.hbm_bytes,
        "compile_seconds": compile_seconds,
        "loss": loss,
    }  # fmt: skip


def sample(name: str, settings: Settings) -> Row:
    """Images sampled a second, in 12 steps with guidance, and decoded."""
    case = model(name, settings.tiny)[1]
    case |= {"batch": min(case["batch"], 64), "steps": 12}
    _, draw = peers.masked_sampling(case)

    def run(count: int) -> None:
        for _ in range(count):
            draw()

    times = timed(run, settings)
    seconds = statistics.median(times)
    return {
        "model": name,
        "batch": case["batch"],
        "seconds_per_step": seconds,
        "rounds": times,
        "images_per_second": case["batch"] / seconds,
        "note": f"{case['steps']} steps with guidance",
    }


def beside_torch(name: str, settings: Settings) -> Row:
    """The training step and the compiled one of PyTorch in turn, both on the device at once."""
    if not peers.installed(settings.torch, "torch"):
        raise Skipped(f"PyTorch is not installed for {settings.torch}; give another Python with --torch")
    if settings.platform == "tpu":
        raise Skipped("PyTorch has no TPU")
    case = model(name, settings.tiny)[1]
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else mmjax's process takes most of the memory
    commands = peers.peer_commands(settings.torch, ("compiled",), diffusers=False)
    sizes, times = peers.alternated(commands, f"train/{name}", case, settings.rounds, settings.seconds)
    middle = {peer: statistics.median(each) for peer, each in times.items()}
    ratio = peers.speedup(times, ["PyTorch compiled"])
    return {
        "model": name,
        "parameters": sizes["mmjax"],
        "batch": case["batch"],
        "seconds_per_step": middle["mmjax"],
        "rounds": times,
        "images_per_second": case["batch"] / middle["mmjax"],
        "ratio": ratio,
        "note": f"{ratio:.2f} times as fast as PyTorch, {1e3 * middle['PyTorch compiled']:.1f} ms",
    }


def feed(name: str, settings: Settings) -> Row:
    """A model trained from JPEGs of 640 x 480: images a second of the input alone, the step alone, and both."""
    import jax
    from token_cache import make_images

    from mmjax import data
    from mmjax.config import resolve
    from mmjax.data.decoding import cores

    config_of, case = model(name, settings.tiny)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = make_images(Path(folder) / "coco", case["images"])
        fields = {"source": "coco_folder", "root": str(root), "train_split": "validation", "size": case["size"]}
        config = resolve(config_of(case) | {"data": fields | {"flip": True}, "compute": {"dtype": "bfloat16"}})
        source = data.open_source(config.data, training=True, seed=0)
        tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), min(case["vocabulary"], 500)))
        batches = data.training_batches(source, tokenizer, config)
        stack.callback(batches.close)  # type: ignore[attr-defined]
        experiment, training, fixed = _built(case, config)
        state, waited = training.make_state(), 0.0

        def draw(count: int) -> None:
            for _ in range(count):
                next(batches)

        def run(count: int, batch: Callable[[], Any] = lambda: fixed) -> None:
            nonlocal state
            metrics = None
            for _ in range(count):
                placed = batch()
                state, new = training.step(state, placed)
                jax.block_until_ready(metrics)  # one step late, as mmjax train reads them
                metrics = new
            jax.block_until_ready(metrics)

        def fetched() -> Any:
            nonlocal waited
            begin = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - begin
            return experiment.placement.shard_batch(batch)

        alone = statistics.median(timed(run, settings))
        draw(5)  # some are made ahead
        input_alone = statistics.median(timed(draw, settings))
        times = timed(lambda count: run(count, fetched), settings)
    seconds, batch = statistics.median(times), config.train.batch
    return {
        "model": name,
        "batch": batch,
        "seconds_per_step": seconds,
        "rounds": times,
        "images_per_second": batch / seconds,
        "input_images_per_second": batch / input_alone,
        "step_images_per_second": batch / alone,
        "cores": cores(),
        "note": f"JPEGs alone {batch / input_alone:,.0f}, steps alone {batch / alone:,.0f} a second; {cores()} cores",
    }


Measure = Callable[..., Row]

# By importance: the last ones are left where the time is over.
PARTS: dict[str, tuple[Measure, str, Mapping[str, Any]]] = {
    "step/45M": (step, "45M", {}),
    "step/120M": (step, "120M", {}),
    "step/300M": (step, "300M", {}),
    "attention/300M": (step, "300M", {"attention": "other"}),
    "torch/300M": (beside_torch, "300M", {}),
    "torch/45M": (beside_torch, "45M", {}),
    "remat/nothing": (step, "300M", {"remat": True, "remat_policy": "nothing"}),
    "remat/attention": (step, "300M", {"remat": True, "remat_policy": "attention"}),
    "remat/dots": (step, "300M", {"remat": True, "remat_policy": "dots"}),
    "sample/300M": (sample, "300M", {}),
    "input/captioner": (feed, "captioner", {}),
    "attention/45M": (step, "45M", {"attention": "other"}),
    "sample/45M": (sample, "45M", {}),
    "torch/120M": (beside_torch, "120M", {}),
}


def model(name: str, tiny: bool) -> tuple[Callable[[Case], Case], Case]:
    """The function that makes a model's config from its sizes, and a copy of these."""
    config_of, case = MODELS[name]
    return config_of, case | ({size: value for size, value in _TINY.items() if size in case} if tiny else {})


def outcome(name: str, settings: Settings) -> Row:
    """What a part finds, or a row with why it was skipped or failed."""
    from mmjax.engine.memory import out_of_memory
    from mmjax.types import UserError

    measure, of, options = PARTS[name]
    try:
        return measure(of, settings, **options)
    except (Skipped, ImportError) as reason:
        return {"skipped": str(reason)}
    except (UserError, SystemExit) as reason:  # SystemExit: of a peer that ended
        return {"error": str(reason)}
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        lines = str(error).strip().splitlines() or [""]
        return {"error": out_of_memory(error) or f"{type(error).__name__}: {lines[0]}"}
