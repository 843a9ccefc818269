"""What holds for every test: eight simulated devices, strict ranks and types, shapes in annotations checked.

Nearly all the time of the suite is compiling. So nothing is optimized that only costs time to compile, and what was
compiled is kept for all processes, those of pytest-xdist and the commands that tests start, and for the next run.
"""

import hashlib
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Quicker to compile, the more so where each core has a process; the first twice as quick, but later versions have no
# choice, and XLA ends the process on flags that it does not know.
os.environ["MMJAX_TESTS_XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1" + (
    " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
)
os.environ["XLA_FLAGS"] = os.environ["MMJAX_TESTS_XLA_FLAGS"]
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# One process may read what another is writing: it says so, and compiles.
os.environ["PYTHONWARNINGS"] = "ignore:Error reading persistent compilation cache"

import hypothesis
import jax
import pytest
from jaxlib.xla_client import CompileOptions
from jaxtyping import install_import_hook

_ = CompileOptions().executable_build_options.debug_options  # reads XLA_FLAGS, once and for all
del os.environ["XLA_FLAGS"]  # libtpu, which plans, reads it as well, and may be of another version
# All of this must happen before the backend starts and before mmjax is imported.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
install_import_hook("mmjax", "beartype.beartype")

from mmjax.cli import _processor  # noqa: E402  programs are made of the instructions that a processor has

sys.path.append(str(Path(__file__).parent / "config"))  # messages

COMPILED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmjax-tests"
MAX_COMPILED = 2 << 30  # bytes of it at the beginning of a run


def remove_least_recently_used(folder: Path, size: int) -> None:
    """Removes files until those left are at most so many bytes together."""
    found = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
    for stat, path in sorted(found, key=lambda each: max(each[0].st_atime, each[0].st_mtime), reverse=True):
        size -= stat.st_size
        if size < 0:
            path.unlink(missing_ok=True)


if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the first process
    remove_least_recently_used(COMPILED, MAX_COMPILED)
    folder = COMPILED / f"{version('jaxlib')}-{hashlib.sha256(_processor().encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))

# Whoever starts the suite in the background has Ctrl-C ignored, here and in every process that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first call of a jitted function compiles, so single examples may take long; equal runs make failures repeatable.
hypothesis.settings.register_profile(
    "mmjax",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # of a busy machine
)
hypothesis.settings.load_profile("mmjax")

LONGEST = (  # in this order, so that no process ends long after the other
    "test_generate_masked",
    "test_configs",
    "test_several_processes",
    "test_train",
    "test_step",
    "test_frozen_text",
    "test_super_resolution",
    "test_stages",
    "test_matrix",
    "test_train_coco",
    "test_setups",
    "test_permissions",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; whatever shares files with one of them comes after it."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
