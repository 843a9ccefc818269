"""Several processes that train one model: connecting them, and letting the first of them do what is done once.

Every process runs the same program. What one of them alone may do (write a file, answer from the disk) goes through
`run_on_primary`, so that all of them continue with the same outcome, which may be a user error.
"""

import contextlib
import json
import logging
import os
import sys
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from mmjax.terminal import printable
from mmjax.types import TransientError, UserError

ALONE = "MMJAX_ALONE"  # in the environment: look for no other processes
HEARTBEAT = "MMJAX_HEARTBEAT_SECONDS"  # in the environment: a process that is silent for so long is taken for dead
STOPPED = "MMJAX_STOPPED_STATUS"  # in the environment: exit status after SIGTERM, for launchers that start again
NO_CLUSTER = "coordinator_address should be defined"
POLL_SECONDS = 5
CONNECT_SECONDS = 300
EXIT_SECONDS = 10  # in which processes that end for the same reason all get there
_calls = _asked = 0


def connect() -> None:
    """Connects this process with the others of its cluster; does nothing where there is none.

    TPU VMs, GKE, SLURM, Open MPI and launch/processes.py are detected. Must come before anything touches a device.

    Raises:
        TransientError: where it looks like a cluster whose processes cannot be reached.
    """
    if os.environ.get(ALONE):
        return
    if os.environ.get("JAX_COORDINATOR_ADDRESS", "").startswith("127."):  # no proxy is asked for this machine
        logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a container could be part of a cluster is no news
            jax.distributed.initialize(
                heartbeat_timeout_seconds=_setting(HEARTBEAT, "100", range(1, 2**31), "a number of seconds")
            )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        if NO_CLUSTER not in str(error):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TransientError(
                f"this looks like one of several processes, and the others cannot be reached ({reason}); start all of "
                f"them within five minutes of each other, or set {ALONE}=1 to run this one by itself"
            ) from error


def stopped_status() -> int:
    """Exit status of a command that was told to end by SIGTERM, and did: 0, but where the launcher wants to know."""
    return _setting(STOPPED, "0", range(256), "an exit status")


def _setting(variable: str, default: str, allowed: range, what: str) -> int:
    """A whole number in the environment."""
    text = os.environ.get(variable, default)
    if not text.isdecimal() or int(text) not in allowed:
        raise UserError(f"{variable}: must be {what} from {allowed.start} to {allowed.stop - 1}, not {text!r}")
    return int(text)


def connected() -> int:
    """How many processes there are, without touching a device."""
    if not jax.distributed.is_initialized():
        return 1
    _client().key_value_set(f"mmjax/connected/{uuid.uuid4()}", "here")
    _client().wait_at_barrier("mmjax/connected", CONNECT_SECONDS * 1000)
    return len(_client().key_value_dir_get("mmjax/connected"))


def is_multiprocess() -> bool:
    return jax.process_count() > 1


def is_primary() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def log_primary(text: str) -> None:
    """Prints a line, in the first process alone."""
    if is_primary():
        print(printable(text), flush=True)


def run_on_primary(action: Callable[[], Any]) -> Any:
    """What an action returns, plain JSON, which the first process alone runs; the others wait for it.

    All processes must come here in the same order. A user's mistake is raised in each of them.
    """
    if not is_multiprocess():
        return action()
    key = _next_key()
    if not is_primary():
        outcome = json.loads(_wait_for(key))
        if "mistake" in outcome:
            raise (TransientError if outcome["status"] == TransientError.status else UserError)(outcome["mistake"])
        return outcome["value"]
    try:
        value = action()
    except UserError as error:
        _client().key_value_set(key, json.dumps({"mistake": str(error), "status": error.status}))
        raise
    _client().key_value_set(key, json.dumps({"value": value}))
    return value


def all_gather_objects(value: Any) -> list[Any]:
    """A plain JSON value of each process, in their order, in all of them."""
    if not is_multiprocess():
        return [value]
    key = _next_key()
    _client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(value))
    return [json.loads(_wait_for(f"{key}/{process}")) for process in range(jax.process_count())]


def _next_key() -> str:
    global _calls  # all processes count alike, since all of them run the same program
    _calls += 1
    return f"mmjax/{_calls}"


def _client() -> Any:
    """The key-value store and the barriers of the cluster, which JAX itself has no public name for."""
    from orbax.checkpoint import multihost  # here, since it is slow to import

    return multihost.get_jax_distributed_client()


def _wait_for(key: str) -> str:
    """However long that takes: where the other process is gone, the coordination service ends this one."""
    while True:
        try:
            return _client().blocking_key_value_get(key, POLL_SECONDS * 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def preempted() -> bool:
    """Whether all processes are to stop here, since one of them was sent SIGTERM. Several processes ask at every step.

    JAX agrees on which call of this function, the same in all processes, is the first to say so.
    """
    global _asked
    _asked += 1
    return multihost_utils.reached_preemption_sync_point(_asked)


def process_batch_slice(sharding: NamedSharding) -> tuple[int, int]:
    """Which of how many equal parts of each global batch this process makes.

    Processes that hold the same rows, their devices being apart only along `model`, make the same part.

    Raises:
        UserError: where the processes cannot have equal parts.
    """
    devices = sharding.mesh.devices.size
    rows: dict[int, set[int]] = {}
    placed: dict[Any, Any] = dict(sharding.devices_indices_map((devices,)))
    for device, index in placed.items():
        rows.setdefault(device.process_index, set()).update(range(*index[0].indices(devices)))
    parts = sorted({tuple(sorted(mine)) for mine in rows.values()})
    if len({row for part in parts for row in part}) != sum(map(len, parts)) or len(set(map(len, parts))) > 1:
        raise UserError(
            f"mesh: {len(rows)} processes cannot each hold an equal part of the batch; let data x fsdp, or model, be a "
            "multiple of the devices of a process"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def place(tree: Any, sharding: Any) -> Any:
    """Values that every process has as a whole, laid out over the devices of all of them.

    Args:
        tree: arrays on the host, or on devices already.
        sharding: one for all of them, or a tree of the same structure.
    """
    if not is_multiprocess():
        return jax.device_put(tree, sharding)

    def put(value: Any, where: NamedSharding) -> jax.Array:
        if isinstance(value, jax.Array) and not value.is_fully_addressable:
            return jax.device_put(value, where)
        whole = jax.device_get(value)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    shardings = sharding if not isinstance(sharding, NamedSharding) else jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(put, tree, shardings)


def exit(status: int, alone: bool = False) -> None:
    """Ends this process, and waits only briefly for the others, which may wait for it, where there are any.

    Args:
        alone: also the only process, without waiting for its threads: after a failed save, Orbax's wait five minutes.
    """
    connected = jax.distributed.is_initialized()
    if not (alone or connected):
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if connected:
        # The first process holds the coordination service. Those that lose it abort, and tell that at length.
        with contextlib.suppress(jax.errors.JaxRuntimeError, RuntimeError, ValueError):
            _client().wait_at_barrier("mmjax/exit", EXIT_SECONDS * 1000)
            jax.distributed.shutdown()
    os._exit(status)
