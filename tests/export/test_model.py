"""Models that are loaded: what they draw follows from what they are asked alone, and wrong questions are one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from made_folder import CONFIG, PROMPTS, REFERENCE, ROOT, told

from mmjax import data
from mmjax.config import resolve
from mmjax.export import DirectImageGenerator
from mmjax.export.loaded import texts_of


def test_an_image_does_not_depend_on_the_others(model: DirectImageGenerator) -> None:
    many = [f"{i} red circles" for i in range(19)]
    images = model.generate(many)
    assert images.shape == (19, 32, 32, 3) and images.dtype == np.uint8
    assert len(np.unique(images.reshape(19, -1), axis=0)) == 19
    for some in ([0], [18, 3], [5] * 17):
        np.testing.assert_array_equal(model.generate([many[i] for i in some]), images[some])
    seen = model.generate(PROMPTS, reference=REFERENCE)
    np.testing.assert_array_equal(model.generate(PROMPTS[1:2], reference=REFERENCE[1:2]), seen[1:2])
    assert (seen != model.generate(PROMPTS)).any()


@pytest.mark.parametrize("referred", [True, False])
def test_images_are_those_of_the_module(model: DirectImageGenerator, referred: bool) -> None:
    given = {"reference": REFERENCE} if referred else {}
    values = model.apply(model.params, text=model.tokenizer.encode(PROMPTS, 11), **given)["image"]
    images = model.generate(PROMPTS, **given)
    np.testing.assert_allclose(images, (np.clip(values, -1, 1) + 1) * 127.5, atol=0.51)


def test_the_first_words_of_a_long_prompt_count(model: DirectImageGenerator) -> None:
    images = model.generate([word + " red circle" * 5000 for word in ("a", "the")] + ["", "红色的圆 \U0001f534 \0"])
    assert (images[0] != images[1]).any()


def test_loads_without_what_is_slow_or_large(folder: Path, model: DirectImageGenerator) -> None:
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'orbax', 'orbax.checkpoint', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import mmjax, numpy\n"
        f"images = mmjax.load({str(folder)!r}).generate({PROMPTS!r})\n"
        "sys.stdout.buffer.write(images.tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    # Here there are eight devices, there is one, so the same arithmetic may be split differently.
    there = np.frombuffer(done.stdout, np.uint8).reshape(3, 32, 32, 3).astype(int)
    assert np.abs(there - model.generate(PROMPTS)).max() <= 1


@pytest.mark.parametrize(("prompts", "what"), [
    ([], "prompts: give a list of at least one text"),
    ("a red circle", "prompts: give a list of at least one text"),
    (b"a red circle", "prompts: each must be a text, and number 0 (from 0) is a int"),
    (None, "prompts: give a list of at least one text"),
    (7, "prompts: give a list of at least one text"),
    (["a red circle", None], "prompts: each must be a text, and number 1 (from 0) is a NoneType"),
    ([["a red circle"]], "prompts: each must be a text, and number 0 (from 0) is a list"),
])  # fmt: skip
def test_prompts_that_are_none(model: DirectImageGenerator, prompts: Any, what: str) -> None:
    assert what in told(texts_of, "prompts", prompts)
    if prompts in ([], "a red circle"):  # the others are refused before, where types are checked as here
        assert what in told(model.generate, prompts)


def test_a_drawn_image_may_be_given_back(model: DirectImageGenerator) -> None:
    images = model.generate(PROMPTS)
    # In float32 throughout: a last bit that differs in the input can round to the next level in the output.
    floats = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    again = model.generate(PROMPTS, reference=images)
    np.testing.assert_array_equal(again, model.generate(PROMPTS, reference=floats))
    assert (again != images).any()


def test_parameters_go_to_the_device_once(model: DirectImageGenerator) -> None:
    model.generate(PROMPTS)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))
    text = jax.device_put(np.zeros((16, 11), np.int32))
    with jax.transfer_guard_host_to_device("disallow"):
        model.apply(model.params, text=text)


@pytest.mark.parametrize(("reference", "what"), [
    (REFERENCE[:2], "reference: must be float32 or uint8 [3, 32, 32, 3], not float32 [2, 32, 32, 3]"),
    (REFERENCE[:, :16], "reference: must be float32 or uint8 [3, 32, 32, 3], not float32 [3, 16, 32, 3]"),
    (np.zeros((3, 32, 31, 3), np.uint8), "not uint8 [3, 32, 31, 3]"),
    (REFERENCE.astype(np.float64), "not float64 [3, 32, 32, 3]"),
    (REFERENCE * 1.01 + 0.5, "reference: values must be from -1 (black) to 1 (white)"),
    (np.full_like(REFERENCE, np.nan), "reference: values must be from -1 (black) to 1 (white)"),
])  # fmt: skip
def test_references_that_are_wrong(model: DirectImageGenerator, reference: np.ndarray, what: str) -> None:
    assert what in told(model.generate, PROMPTS, reference=reference)


def test_a_reference_to_a_model_that_takes_none(model: DirectImageGenerator, tokenizer: bytes) -> None:
    blind = resolve(CONFIG, {"model.reference": ""})
    model = DirectImageGenerator(blind, {}, data.load_tokenizer(tokenizer))
    assert told(model.generate, PROMPTS, reference=REFERENCE).startswith("reference: ")
