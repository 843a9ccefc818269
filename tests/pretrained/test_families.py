"""Families of pretrained models beside the libraries they are from, whose outputs are in tests/references."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mmjax import pretrained
from mmjax.nn.compute import DEFAULT

REFERENCES = Path(__file__).parents[1] / "references"
FOLDERS = sorted(path.parent.name for path in REFERENCES.glob("*/config.json"))


def encoded(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], Any, Any]:
    """The outputs of a model for the inputs of its reference, the reference, the module and its parameters."""
    checkpoint = pretrained.open_checkpoint(REFERENCES / name)
    params = pretrained.load(checkpoint)
    reference = load_file(REFERENCES / name / "reference.safetensors")
    module = checkpoint.spec.build(checkpoint.config, DEFAULT)
    outputs: dict[str, Any] = {}
    for kind, inputs in (("text", ("ids", "mask")), ("image", ("image",))):
        if kind in checkpoint.spec.encodes:
            encode = functools.partial(module.apply, method=f"encode_{kind}", mutable=["classes"])
            got, aside = jax.jit(encode)({"params": params}, *(reference[each] for each in inputs))
            outputs |= {f"{kind}_tokens": got.tokens, f"{kind}_pooled": got.pooled}
            if aside:
                outputs["logits"] = aside["classes"]["logits"][0]
    if "latents" in checkpoint.spec.encodes:

        def both(module: Any, image: Any, latents: Any) -> dict[str, Any]:
            outputs = {"latents": module.encode(image), "decoded": module.decode(latents)}
            if "mean" in reference:
                outputs["mean"], outputs["log_variance"] = module.posterior(image)
            return outputs

        run = jax.jit(functools.partial(module.apply, method=both))
        outputs = run({"params": params}, reference["image"], reference["other_latents"])
    return outputs, reference, module, params


def close(got: Any, wanted: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Compares to 1e-5 of the largest number."""
    got = np.asarray(got)
    assert got.shape == wanted.shape
    if valid is not None:
        got, wanted = got[valid], wanted[valid]
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", FOLDERS)
def test_equals_the_original(name: str) -> None:
    outputs, reference, module, params = encoded(name)
    compared = 0
    for key in outputs.keys() & reference.keys():
        valid = reference["mask"] if key == "text_tokens" else None
        close(outputs[key], reference[key], valid)
        compared += 1
    if "logits_per_image" in reference:
        embeddings = {}
        for kind in ("text", "image"):
            pooled = np.asarray(outputs[f"{kind}_pooled"])
            embeddings[kind] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
            close(embeddings[kind], reference[f"{kind}_embeds"])
        cosines = jnp.asarray(embeddings["image"] @ embeddings["text"].T)
        logits = module.apply({"params": params}, cosines, method="logits")
        close(logits, reference["logits_per_image"])
    assert compared or "logits_per_image" in reference
