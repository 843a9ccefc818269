"""The model of images and texts: what is built, what a lacking field changes, and where a word looks."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import losses, models
from mmjax.config import resolve
from mmjax.models import vision_language
from mmjax.types import UserError

LENGTH = 7
MODEL = {
    "kind": "vision_language",
    "patch": 8,
    "width": 24,
    "heads": 3,
    "layers": 1,
    "text_layers": 1,
    "fusion_layers": 1,
    "decoder_layers": 1,
    "embedding": 10,
}


def config_dict(*terms: str, data: dict[str, Any] | None = None, **model: Any) -> Any:
    return resolve({
        "data": {"size": 32, **(data or {})},
        "text": {"length": LENGTH, "vocabulary": 300},
        "model": {**MODEL, **model},
        "losses": {name: {} for name in terms},
        "train": {"steps": 1},
    })  # fmt: skip


def batch(count: int = 3, channels: int = 3, sides: tuple[int, ...] = (32, 32)) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    texts = {name: rng.integers(5, 300, (count, LENGTH)).astype(np.int32) for name in ("text", "question", "answer")}
    image = rng.uniform(-1, 1, (count, *sides, channels)).astype(np.float32)
    rest = {
        "label": np.arange(count, dtype=np.int32),
        "mask": np.ones(count, bool),
        "key": np.arange(count, dtype=np.uint32),
    }
    return jax.tree.map(jnp.asarray, {"image": image, **texts, **rest})


def terms_of(config: Any, given: dict[str, Any], train: bool = True) -> tuple[dict[str, Any], Any]:
    """The terms of each example, and the gradients of their sum."""
    return next(terms_of_each(config, given, train=train))


def terms_of_each(config: Any, *batches: dict[str, Any], train: bool = True) -> Iterator[tuple[dict[str, Any], Any]]:
    loss = losses.build(config, functools.partial(vision_language.prepare, config))
    module = models.build(config)
    params = jax.jit(lambda: models.init(config, jax.random.key(0)))()

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients_of(params: Any, given: dict[str, Any]) -> Any:
        seen = loss.prepare(given, jax.random.key(1) if train else None)
        outputs, _ = module.apply({"params": params}, **seen, mutable=["batch_stats"])
        terms = loss.terms(outputs, given | seen)
        return sum(jnp.sum(values) for values in terms.values()), terms

    for given in batches:
        gradients, terms = gradients_of(params, given)
        yield terms, gradients


ALL = ("contrastive", "matching", "captioning", "answering", "masked_language_modeling", "masked_patch_modeling")


@pytest.fixture(name="whole_and_lacking", scope="module")
def terms_of_all() -> list[tuple[dict[str, Any], Any]]:
    """Of five rows, and of the same where the second has no text and the third no answer."""
    given = batch(5)
    lacking = {**given, "text": given["text"].at[1].set(0), "answer": given["answer"].at[2].set(0)}
    return list(terms_of_each(config_dict(*ALL, registers=2, stem=(8,)), given, lacking))


def test_every_parameter_learns_from_the_terms(whole_and_lacking: list[tuple[dict[str, Any], Any]]) -> None:
    terms, gradients = whole_and_lacking[0]
    assert terms.keys() == set(ALL) and all(values.shape == (5,) for values in terms.values())
    still = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
             if not np.any(np.asarray(leaf))]  # fmt: skip
    # A key's bias shifts all logits of a query alike.
    assert all("['k']['bias']" in name for name in still), still


@pytest.mark.parametrize("term", ["contrastive", "captioning", "answering", "masked_language_modeling"])
def test_only_what_the_terms_need_is_built(term: str) -> None:
    shapes = jax.eval_shape(lambda: models.init(config_dict(term), jax.random.key(0)))
    built = {
        "contrastive": {"vision", "text", "image_pooling", "text_pooling", "image_projection", "text_projection",
                        "log_scale"},
        "captioning": {"vision", "decoder"},
        "answering": {"vision", "text", "fusion", "decoder"},
        "masked_language_modeling": {"text"},
    }  # fmt: skip
    assert set(shapes) == built[term]


def test_rows_that_lack_a_field_have_no_loss_and_change_no_other(
    whole_and_lacking: list[tuple[dict[str, Any], Any]],
) -> None:
    (whole, _), (terms, _) = whole_and_lacking
    for name in ("contrastive", "matching", "captioning", "masked_language_modeling"):
        assert terms[name][1] == 0 and whole[name][1] > 0
    assert terms["answering"][2] == 0 and whole["answering"][2] > 0
    for name in ("captioning", "answering"):
        rest = [0, 3, 4]
        np.testing.assert_allclose(np.asarray(terms[name])[rest], np.asarray(whole[name])[rest], rtol=1e-5)


@pytest.mark.parametrize(
    "fusion",
    ["joint", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cross_attention", "mlp", "bilinear"))],
)
def test_an_answer_depends_on_image_and_question_in_every_fusion(fusion: str) -> None:
    config = config_dict("answering", fusion=fusion)
    module, given = models.build(config), batch()
    params = jax.jit(lambda: models.init(config, jax.random.key(0)))()
    apply = jax.jit(lambda **seen: module.apply({"params": params}, **seen)["answer_logits"])
    seen = {name: given[name] for name in ("image", "question", "answer")}
    found = apply(**seen)
    for name in ("image", "question"):
        assert np.abs(apply(**{**seen, name: given[name][::-1]})[0] - found[0]).max() > 1e-4


@pytest.mark.parametrize("classify", ["image", pytest.param("text", marks=pytest.mark.slow), "question"])
def test_classes_of_images_of_texts_and_of_both(classify: str) -> None:
    config = config_dict("classification", classify=classify, classes=4)
    assert classify in models.inputs(config)
    terms, _ = terms_of(config, batch())
    assert (np.asarray(terms["classification"]) > 0).all()


@pytest.mark.slow
def test_clips_sounds_and_residual_networks() -> None:
    clips = config_dict("contrastive", "captioning", data={"frames": 4, "source": "clips_folder", "root": "x"})
    sounds = config_dict(
        "contrastive", data={"source": "audio_folder", "root": "x", "audio": {"seconds": 0.5, "bins": 32}}
    )
    residual = config_dict("contrastive", encoder="resnet")
    for config, given in ((clips, batch(sides=(4, 32, 32))), (sounds, batch(channels=1, sides=(32, 50))),
                          (residual, batch())):  # fmt: skip
        terms, gradients = terms_of(config, given)
        assert np.isfinite(terms["contrastive"]).all()
        assert np.any(np.asarray(jax.tree.leaves(gradients["vision"])[0]))


@pytest.mark.parametrize("fields", [{"beams": 0}, {"beams": 2, "top_p": 0.5}, {"top_p": 1.5}])
def test_impossible_ways_to_decode_texts_are_one_line(fields: dict[str, Any]) -> None:
    tree = {"model": MODEL, "data": {"size": 32}, "train": {"steps": 1}, "losses": {"captioning": {}}}
    with pytest.raises(UserError, match=rf"^text_decoding\.{next(iter(fields))}[:,] ") as error:
        resolve({**tree, "text_decoding": fields})
    assert "\n" not in str(error.value) and (len(fields) == 2 or str(*fields.values()) in str(error.value))


@pytest.mark.parametrize(("terms", "model", "field", "value"), [
    (["matching"], {}, "losses.matching", "contrastive"),
    (["contrastive", "sigmoid_contrastive"], {}, "losses", "sigmoid_contrastive"),
    (["classification"], {}, "model.classes", "0"),
    (["captioning"], {"patch": 5}, "model.patch", "5"),
    (["captioning"], {"stem": (8, 8, 8, 8)}, "model.stem", r"\[8, 8, 8, 8\] .*16"),
    (["masked_patch_modeling"], {"encoder": "resnet"}, "losses.masked_patch_modeling", "model.encoder=vit"),
    (["mean_squared_error"], {}, "losses.mean_squared_error", "image"),
])  # fmt: skip
def test_what_does_not_go_together_is_one_line(terms: list[str], model: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"^{field}: .*{value}"):
        config_dict(*terms, **model)
