"""What holds for every test: eight simulated devices, strict ranks and types, shapes in annotations checked."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import jax
from jaxtyping import install_import_hook

# All of this must happen before the backend starts and before mmjax is imported.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
install_import_hook("mmjax", "beartype.beartype")

# Whoever starts the suite in the background has Ctrl-C ignored, here and in every process that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first call of a jitted function compiles, so single examples may take long; equal runs make failures repeatable.
hypothesis.settings.register_profile("mmjax", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("mmjax")
