"""What a model says of images: by itself, the same whatever else is asked for, and clear about what it cannot."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import data, models
from mmjax.config import Config, resolve
from mmjax.export import Captioner, DirectImageGenerator, DualEncoder, LoadedModel, QuestionAnswerer, model_class
from mmjax.models import vision_language
from mmjax.nn import attention
from mmjax.types import END, MASK, UserError, leaf_name

TEXTS = ["a red circle left of a blue square", "two green rings", "what color is the circle?"]
CONFIG: dict[str, Any] = {
    "name": "seeing",
    "data": {"source": "coco_folder", "root": "none", "size": 20},
    "text": {"length": 13, "vocabulary": 320},
    "model": {"kind": "vision_language", "patch": 4, "registers": 3, "width": 16, "heads": 2, "layers": 1,
              "text_layers": 1, "fusion_layers": 1, "decoder_layers": 2, "embedding": 7},
    "losses": {"captioning": {}, "answering": {}, "contrastive": {}},
    "train": {"steps": 7},
}  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (19, 20, 20, 3)).astype(np.uint8)


@pytest.fixture(name="config", scope="module")
def config_dict() -> Config:
    return resolve(CONFIG)


@pytest.fixture(name="model", scope="module")
def untrained(config: Config) -> Any:
    params = jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())
    tokenizer = data.load_tokenizer(data.train_tokenizer(TEXTS * 3, 320))
    words = [i for i in range(MASK + 1, tokenizer.size) if not tokenizer._processor.is_byte(i)]
    bias = np.full_like(params["decoder"]["bias"], -100)
    bias[words] = 0
    bias[END] = 0

    def louder(path: Any, leaf: np.ndarray) -> np.ndarray:  # so that images and questions count, without training
        name = leaf_name(path)
        if name == "vision/norm/scale":  # beside the positions that are added behind it
            return leaf * 10
        return leaf * 20 if "cross_attention/out" in name else leaf * 3 if "cross_attention/v" in name else leaf

    params = jax.tree_util.tree_map_with_path(louder, params)
    params = params | {"decoder": params["decoder"] | {"bias": bias}}
    return model_class(config)(config, jax.device_put(params), tokenizer)


def told(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_captions_are_the_likeliest_words_and_depend_on_no_other_image(model: Any) -> None:
    captions = model.caption(IMAGES)
    assert len(captions) == 19 and len(set(captions)) > 3 and all(captions)
    for some in ([0], [18, 3], [5] * 17):
        assert model.caption(IMAGES[some]) == [captions[i] for i in some]
    as_floats = IMAGES.astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert model.caption(as_floats) == captions
    module, ids = vision_language.build(model.config), np.zeros((19, 13), np.int32)
    for place in range(13):  # without a cache, and one token at a time
        logits = _logits(module, model.params, as_floats, ids)
        ids[:, place] = np.argmax(logits[:, place], axis=-1)
    assert model.tokenizer.decode(ids) == captions


def decode(module: Any, ids: jax.Array, context: jax.Array) -> Any:
    """The logits of all places at once, without a cache."""
    return module.decoder(ids, context)


def _logits(module: Any, params: Any, image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    def logits(image: jax.Array, ids: jax.Array) -> jax.Array:
        context = module.apply({"params": params}, image, method="context")
        found: jax.Array = module.apply({"params": params}, ids, context, method=decode)
        return found

    return np.asarray(_compiled(logits, image, ids))


def _compiled(function: Any, *arguments: Any) -> Any:
    if function.__qualname__ not in _PROGRAMS:
        _PROGRAMS[function.__qualname__] = jax.jit(function)
    return _PROGRAMS[function.__qualname__](*arguments)


_PROGRAMS: dict[str, Any] = {}


def test_writing_can_be_chosen(model: Any) -> None:
    greedy, drawn = model.caption(IMAGES[:3]), model.caption(IMAGES[:3], seed=5, top_p=1.0, temperature=2.0)
    assert drawn != greedy and model.caption(IMAGES[1:2], seed=6, top_p=1.0, temperature=2.0) == drawn[1:2]
    assert model.caption(IMAGES[:3], seed=[9, 6, 5], top_p=1.0, temperature=2.0)[1] == drawn[1]
    assert "text_decoding.beams" in told(model.caption, IMAGES, beems=3)
    assert "text_decoding.beams: must be above 0" in told(model.caption, IMAGES, beams=0)
    assert "text_decoding.beams, text_decoding.top_p" in told(model.caption, IMAGES, beams=2, top_p=0.5)
    assert "seed: must be a whole number, or one for each of the 19 images" in told(model.caption, IMAGES, seed=[1])


def test_answers_depend_on_the_question(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    one, other = (model.answer(IMAGES[:5], [text] * 5) for text in TEXTS[1:])
    assert len(one) == 5 and one != other
    mixed = model.answer(IMAGES[:2], TEXTS[1:])
    assert mixed == [one[0], other[1]]
    assert not caplog.records
    logging.getLogger("mmjax").propagate = True
    model.answer(IMAGES[:2], ["what " * 30] * 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"question {('what ' * 30)[:60]!r} has more than 13 tokens; what goes beyond is cut"
    ]


def test_embeddings_are_those_of_the_model(model: Any) -> None:
    images, texts = model.embed_image(IMAGES), model.embed_text(TEXTS)
    assert images.shape == (19, 7) and texts.shape == (3, 7) and images.dtype == texts.dtype == np.float32
    for found in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.embed_image(IMAGES[17:]), images[17:])
    outputs = model.apply(
        model.params,
        image=IMAGES[:3].astype(np.float32) / np.float32(127.5) - np.float32(1),
        text=model.tokenizer.encode(TEXTS, 13),
    )
    np.testing.assert_allclose(outputs["image_embedding"], images[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["text_embedding"], texts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [False, True])
def test_where_it_looks_is_what_its_attention_weighs(model: Any, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [TEXTS[2]] * 2 if asked else None
    looked = model.attention_maps(IMAGES[:2], TEXTS[:2], questions)
    for found, text in zip(looked, TEXTS, strict=False):
        assert " ".join(found.words) == text and found.maps.shape == (len(found.words), 5, 5)
        np.testing.assert_allclose(found.maps.sum(axis=(1, 2)), 1, rtol=1e-5)
        assert np.ptp(found.maps, axis=0).max() > 1e-4  # words differ
    # The same by what attention gives, where each value is a different unit vector.
    attend, seen = attention.dot_product_attention, []

    def watched(q: jax.Array, k: jax.Array, v: jax.Array, *more: Any, **named: Any) -> jax.Array:
        if q.shape[1] == 13 and k.shape[1] == 25 and not isinstance(q, jax.core.Tracer):
            unit = jnp.broadcast_to(jnp.eye(25)[None, :, None], (*k.shape[:3], 25))
            weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / jnp.sqrt(jnp.float32(q.shape[-1])))
            seen.append(np.asarray(jnp.einsum("bhts,bshk->bthk", weights, unit)).mean(axis=2))
        return attend(q, k, v, *more, **named)

    monkeypatch.setattr(attention, "dot_product_attention", watched)
    module, ids = vision_language.build(model.config), model.tokenizer.encode(TEXTS[:2], 13)
    image = jnp.asarray(IMAGES[:2].astype(np.float32) / np.float32(127.5) - np.float32(1))
    question = jnp.asarray(model.tokenizer.encode(questions, 13)) if questions else None
    with jax.disable_jit():
        context = module.apply({"params": model.params}, image, question, method="context")
        seen.clear()  # of the fusion
        module.apply({"params": model.params}, jnp.asarray(ids), context, method=decode)
    assert len(seen) == 2  # layers
    weights = np.mean(seen, axis=0)
    for row, found in enumerate(looked):
        for word, (_, places) in zip(found.maps, model.tokenizer.words(ids[row]), strict=True):
            np.testing.assert_allclose(word.reshape(-1), weights[row, places].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_an_empty_text_has_no_words_to_look_for(model: Any) -> None:
    (found,) = model.attention_maps(IMAGES[:1], [""])
    assert found.words == [] and found.maps.shape == (0, 5, 5)


@pytest.mark.parametrize(("images", "what"), [
    (IMAGES[:, :16], "images: must be float32 or uint8 [19, 20, 20, 3], not uint8 [19, 16, 20, 3]"),
    (IMAGES.astype(np.int64), "not int64"),
    (IMAGES.astype(np.float32), "images: values must be from -1 (black) to 1 (white)"),
    (IMAGES[:0], "of at least one"),
    (None, "of at least one"),
    ([IMAGES[0], IMAGES[0, :7]], "images: must be one array"),
])  # fmt: skip
def test_other_than_images(model: Any, images: Any, what: str) -> None:
    assert what in told(model._images, images)


def test_other_than_questions(model: Any) -> None:
    assert "questions: must be one for each of the 19 images, not 1" in told(model.answer, IMAGES, ["what?"])
    assert "questions: number 1 (from 0) is empty" in told(model.answer, IMAGES[:2], ["what?", " "])
    assert "questions: give a list" in told(model.answer, IMAGES, "what?")
    assert "questions: each must be a text, and number 0 (from 0) is a int" in told(model._questions, [3], 1)
    assert "texts: must be one for each of the 2 images, not 3" in told(model.attention_maps, IMAGES[:2], TEXTS)
    assert "texts: give a list" in told(model.embed_text, [])


METHODS = {
    Captioner: {"caption", "attention_maps"},
    QuestionAnswerer: {"answer", "attention_maps"},
    DualEncoder: {"embed_text", "embed_image"},
    DirectImageGenerator: {"generate"},
}


def methods(kind: type[LoadedModel]) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")} - set(dir(LoadedModel))


@pytest.mark.parametrize(("losses", "classes"), [
    (["captioning"], [Captioner]),
    (["answering"], [QuestionAnswerer]),
    (["contrastive"], [DualEncoder]),
    (["sigmoid_contrastive"], [DualEncoder]),
    (["answering", "captioning"], [QuestionAnswerer, Captioner]),
    (["captioning", "contrastive"], [Captioner, DualEncoder]),
    (["captioning", "answering", "contrastive"], [Captioner, QuestionAnswerer, DualEncoder]),
    (["masked_language_modeling"], []),
])  # fmt: skip
def test_a_model_has_the_methods_of_what_it_was_trained_for(losses: list[str], classes: list[type]) -> None:
    found = model_class(resolve(CONFIG | {"losses": {name: {} for name in losses}}))
    assert methods(found) == set().union(*(METHODS[one] for one in classes))
    assert {one for one in METHODS if issubclass(found, one)} == set(classes)
    assert model_class(resolve(CONFIG | {"losses": {name: {} for name in losses[::-1]}})) is found


def test_a_generator_only_draws() -> None:
    found = model_class(resolve({"name": "drawing", "train": {"steps": 7}}))
    assert found is DirectImageGenerator and methods(found) == {"generate"}


@pytest.mark.parametrize(("given", "model", "expected"), [
    ({"size": 44}, {"patch": 4}, (11, 11)),
    ({"size": 72}, {"encoder": "resnet"}, (3, 3)),
    ({"source": "clips_folder", "size": 24, "frames": 7}, {"patch": 4, "time": 3}, (3, 6, 6)),
    ({"source": "audio_folder", "audio": {"seconds": 0.5, "bins": 20}}, {"patch": 8}, (3, 7)),
])  # fmt: skip
def test_the_grid_is_that_of_what_the_decoder_sees(given: dict, model: dict, expected: tuple[int, ...]) -> None:
    own = {**CONFIG["model"], "registers": 0} | model
    config = resolve(CONFIG | {"data": {**CONFIG["data"], **given}, "model": own})
    image = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)

    def context(image: jax.Array) -> jax.Array:
        found: jax.Array = vision_language.model_fns(config).context(
            models.init(config, jax.random.key(0)), image, None
        )
        return found

    assert vision_language.grid(config) == expected
    assert jax.eval_shape(context, image).shape == (1, np.prod(expected), 16)
