"""Plans a training on a topology from the shapes of its train step, without the devices."""

import dataclasses
import functools
import json
import math
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmjax import losses, models
from mmjax.config import Config, MeshConfig, resolve, to_dict
from mmjax.data.source import array_fields
from mmjax.engine import setup, trainer
from mmjax.parallel import Placement, make_mesh, mesh_sizes
from mmjax.plan import estimate, flops, hbm, hlo, report, search, topology
from mmjax.plan.network import Network, places_of
from mmjax.plan.program import parse
from mmjax.plan.report import Plan
from mmjax.plan.topology import Topology
from mmjax.terminal import printable
from mmjax.train.optimizer import AdamConfig
from mmjax.types import UserError

_TOO_MUCH = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM|Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")


def planned(config: Config, wanted: Topology) -> Plan:
    """Plans the train step: compiled for TPUs, estimated for GPUs.

    Raises:
        UserError: as for compiled.
    """
    if wanted.is_tpu:
        return compiled(config, wanted)
    plan = estimated(config, wanted)
    if plan.hbm_bytes > report.USABLE * wanted.chip.hbm_bytes:
        raise _too_much(config, plan, plan.hbm_bytes // wanted.chip.devices)
    return plan


def compiled(config: Config, wanted: Topology) -> Plan:
    """Plans the train step by compiling it for TPUs.

    Raises:
        UserError: for a mesh or a batch that does not fit the topology, or a step that does not fit into memory.
    """
    placement = _placement(config, wanted)
    draft = _estimated(config, wanted, placement)
    training = trainer.build(setup.build(config, placement=placement, place=_shapes), _steps(config))
    begin = time.perf_counter()
    try:
        step, text = _compile(training.lower(batch_shapes(config, config.train.batch, placement.batch)))
    except jax.errors.JaxRuntimeError as error:
        if found := _TOO_MUCH.search(str(error)):
            number, unit = filter(None, found.groups())
            raise _too_much(config, draft, round(float(number) * 1024 ** ("KMGT".index(unit) + 1))) from None
        raise
    took = time.perf_counter() - begin
    network, program = _network(wanted, placement), parse(text)
    return dataclasses.replace(
        draft,
        memory=estimate.compiled_memory(draft.memory, step.memory_analysis(), wanted.chip.devices),
        traffic=[network.traffic(each) for each in hlo.collectives(program, wanted.devices, wanted.parts)],
        bytes_accessed=hbm.bytes_accessed(program) * wanted.chip.devices,
        compile_seconds=took,
    )


def estimated(config: Config, wanted: Topology) -> Plan:
    """Plans the train step by arithmetic, whether it fits into memory or not.

    Raises:
        UserError: for a mesh or a batch that does not fit the topology.
    """
    return _estimated(config, wanted, _placement(config, wanted))


def _estimated(config: Config, wanted: Topology, placement: Placement) -> Plan:
    mesh, batch = dict(placement.mesh.shape), config.train.batch
    parameters, memory, collectives = _memory(config, placement)
    model_flops, step_flops = _flops(_of_step(config))
    parts = placement.num_batch_shards * config.optimizer.grad_accum_steps
    network = _network(wanted, placement)
    return Plan(
        name=printable(config.name),
        topology=wanted,
        mesh=mesh,
        batch=batch,
        parameters=parameters,
        step_flops=model_flops[0] + model_flops[1] * batch,
        hardware_flops=step_flops[0] + step_flops[1] * batch,
        memory={name: size * wanted.chip.devices for name, size in memory.items() if size},
        traffic=[network.traffic(each) for each in collectives],
        parts=parts,
    )


def step_bytes(config: Config, placement: Placement, batch: int) -> int:
    """Estimates the bytes of a device that a train step of another batch size takes, with a margin."""
    memory = _memory(search.apply(config, {"train.batch": batch}), placement)[1]
    return math.ceil(sum(memory.values()) / search.MAX_ESTIMATE)


def _of_step(config: Config) -> Config:
    """The config of the smallest batch on any mesh, of which all batches have the same costs per example."""
    return search.apply(config, {"mesh": MeshConfig(), "train.batch": config.optimizer.grad_accum_steps})


def _memory(config: Config, placement: Placement) -> tuple[int, dict[str, int], list[hlo.Collective]]:
    """The number of parameters, the bytes of a train step on a device by purpose, and the collectives of a step."""
    of_state = search.apply(
        config,
        {
            "compute.remat": False,
            "compute.remat_policy": "nothing",
            "compute.attention": "xla",
            "train.batch": config.optimizer.grad_accum_steps,
        },
    )
    parameters, memory, collectives = _state_costs(of_state, placement)
    saved, recomputed = _activation_costs(_of_step(config))
    rows = config.train.batch // (placement.num_batch_shards * config.optimizer.grad_accum_steps)
    more = {report.ACTIVATIONS: saved * rows, report.TEMPORARIES: recomputed * rows}
    memory = memory | {name: size // placement.mesh.shape["model"] for name, size in more.items()}
    return parameters, memory, collectives


def _too_much(config: Config, plan: Plan, used: int) -> UserError:
    """The error of a step that takes `used` bytes of a device."""
    return UserError(f"{plan.topology}: {estimate.too_much(plan, used, _savings(config, plan))}")


def _savings(config: Config, plan: Plan) -> list[str]:
    """Command-line options that reduce the memory of this config."""
    options = []
    if plan.batch // plan.parts % 2 == 0 and not compares(config):
        options.append(f"--config.optimizer.grad_accum_steps={2 * config.optimizer.grad_accum_steps}")
    if not config.compute.remat:
        options.append("--config.compute.remat=true")
    elif config.compute.remat_policy != "nothing":
        options.append("--config.compute.remat_policy=nothing")
    kernel = search.kernels(config, plan.topology)[0]
    if config.compute.attention not in (kernel, "auto" if kernel == "splash" else kernel):
        options.append(f"--config.compute.attention={kernel}")
    return options


def compares(config: Config) -> bool:
    """Whether a loss compares the examples of a microbatch, so that microbatches of another size would change it."""
    return any(spec.negatives for spec in losses.find(config).values())


def _compile(step: jax.stages.Lowered) -> tuple[jax.stages.Compiled, str]:
    """The compiled step and its HLO text, which JAX does not return for all kinds of chips."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = step.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        texts = Path(folder).glob("*.after_optimizations.txt")
        return compiled, max(texts, key=lambda path: path.stat().st_size).read_text(encoding="utf-8")


def _placement(config: Config, wanted: Topology) -> Placement:
    """The placement of the config's training on the topology, checked."""
    if wanted.is_tpu:
        placement = Placement(make_mesh(config.mesh, topology.devices(wanted)))
    else:
        sizes = mesh_sizes(config.mesh, wanted.devices)
        placement = Placement(AbstractMesh(tuple(sizes.values()), tuple(sizes)))
        if sizes["model"] > 1:
            raise UserError("mesh.model: GPUs are planned by arithmetic, which knows no mesh.model but 1")
    parts = config.optimizer.grad_accum_steps
    name = "train.batch / optimizer.grad_accum_steps" if parts > 1 else "train.batch"
    placement.check_batch(name, config.train.batch // parts)
    setup.resolved_compute(config, placement)
    return placement


def _network(wanted: Topology, placement: Placement) -> Network:
    devices = list(placement.mesh.devices.flat) if wanted.is_tpu else []
    return Network(wanted, dict(placement.mesh.shape), places_of(wanted, devices))


def _steps(config: Config) -> int:
    """Number of steps, on which only the learning rate schedule depends."""
    return config.train.steps or config.optimizer.warmup_steps + 1


def _shapes(tree: Any, sharding: Any = None) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def batch_shapes(config: Config, rows: int, sharding: Any = None) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a training batch of the data pipeline."""
    inputs = models.inputs(config)
    # Codes replace the fields that they encode.
    arrays = {} if "codes" in inputs else array_fields(config.data.features)
    shapes = {
        **{name: jax.ShapeDtypeStruct((1, *shape), dtype) for name, (shape, dtype) in arrays.items()},
        "text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32),
        "mask": jax.ShapeDtypeStruct((1,), jnp.bool_),
    }
    shapes |= {name: shape for name, shape in inputs.items() if name not in ("reference", "masked")}
    return {name: jax.ShapeDtypeStruct((rows, *s.shape[1:]), s.dtype, sharding=sharding) for name, s in shapes.items()}


def _alone(config: Config) -> tuple[setup.Experiment, trainer.Training]:
    """The experiment and its train step on one device, for tracing."""
    parts = setup.build(config, placement=Placement(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])))
    return parts, trainer.build(parts, _steps(config))


def count(config: Config) -> float:
    """FLOPs of a train step over all devices."""
    _, training = _alone(config)
    batch = batch_shapes(config, config.train.batch)
    return flops.traced(training.step, _shapes(training.shapes), batch, _shapes(training.frozen))


def of_the_model(config: Config) -> Config:
    """The config without FLOPs beyond the model's: rematerialization and the optimizer's matrix products."""
    return search.apply(config, {"compute.remat": False, "compute.attention": "xla", "optimizer": AdamConfig("adam")})


def activations(config: Config) -> int:
    """Bytes of activations that the forward pass of one example saves for the backward pass."""
    _, training = _alone(config)
    training_loss = training.loss.without(losses.adversarial_terms(config))

    def saved(rows: int) -> int:
        def backward(params: Any, batch: Any) -> Any:
            def loss(params: Any) -> jax.Array:
                inputs = training_loss.prepare(batch, jax.random.key(0))
                terms = training_loss.terms(training.apply(params, **inputs), batch | inputs)
                return jnp.sum(training_loss.loss(terms))

            return jax.vjp(loss, params)[1]

        residuals = jax.eval_shape(backward, training.shapes.params, batch_shapes(config, rows) | dict(training.frozen))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    return saved(2) - saved(1)  # the difference excludes the parameters, which are saved as well


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Caches a function of a config, which has no hash, by the config's JSON."""
    cached = functools.cache(lambda text, *others: function(resolve(json.loads(text)), *others))
    return lambda config, *others: cached(json.dumps(to_dict(config)), *others)


@_cached
def _activation_costs(config: Config) -> tuple[int, int]:
    """Bytes of activations that an example saves for the backward pass, and that a layer recomputes for it there."""
    saved, recomputed = activations(config), 0
    if config.compute.remat:
        total = activations(search.apply(config, {"compute.remat": False}))
        recomputed = max(total - saved, 0) // max(getattr(config.model, "layers", 1), 1)
    return saved, recomputed


@_cached
def _flops(config: Config) -> tuple[tuple[float, float], tuple[float, float]]:
    """FLOPs of the model and of the whole train step, each the constant part and per example."""
    return _flops_by_batch(of_the_model(config)), _flops_by_batch(config)


def _flops_by_batch(config: Config) -> tuple[float, float]:
    rows = config.train.batch
    once, twice = (count(search.apply(config, {"train.batch": times * rows})) for times in (1, 2))
    return 2 * once - twice, (twice - once) / rows


@_cached
def _state_costs(config: Config, placement: Placement) -> tuple[int, dict[str, int], list[hlo.Collective]]:
    """The number of parameters, the bytes of the train state on a device by purpose, and the collectives of a step."""
    state = trainer.state_shapes(config, placement, _steps(config))

    def held(tree: Any) -> int:
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)

    memory = {
        report.PARAMETERS: held((state.params, trainer.base_shapes(config, placement))),
        report.OPTIMIZER: held((state.opt_state, state.adversary)),
        report.AVERAGE: held(state.ema),
        report.GRADIENTS: held(state.params),
    }
    params = jax.tree.leaves(state.params)
    shapes = [(x.shape, tuple(x.sharding.spec)) for x in params]
    itemsize = models.resolve_compute(config.compute, placement.platform).dtype.itemsize
    collectives = estimate.collectives(shapes, dict(placement.mesh.shape), itemsize, config.optimizer.grad_accum_steps)
    return sum(x.size for x in params), memory, collectives
