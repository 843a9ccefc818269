import pytest

from mmjax import evaluate
from mmjax.config import resolve
from mmjax.types import UserError


def recipe(**sections):
    return resolve({"train": {"steps": 1}, **sections})


def test_builds_what_the_recipe_names_and_samples() -> None:
    config = recipe(evaluate={"evaluators": ["scenes", "losses", "reconstruction", "losses"]})
    assert list(evaluate.build(config)) == ["scenes", "losses", "reconstruction", "samples"]


def test_no_samples_where_none_are_asked_for() -> None:
    assert list(evaluate.build(recipe(evaluate={"samples": 0}))) == ["losses"]


def test_codes_are_of_a_visual_tokenizer_only() -> None:
    with pytest.raises(UserError, match=r"codes is for a visual_tokenizer, not for model\.kind=direct"):
        evaluate.build(recipe(evaluate={"evaluators": ["codes"]}))


def test_what_evaluators_need() -> None:
    assert evaluate.NEEDS.keys() <= evaluate.EVALUATORS.keys()
    assert "scene" in evaluate.NEEDS["scenes"]


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="no evaluator 'loses'; known: codes, losses, reconstruction, samples, scenes"):
        evaluate.build(recipe(evaluate={"evaluators": ["loses"]}))


def test_pictures_too_small_for_an_evaluator_are_refused_before_anything_runs() -> None:
    config = recipe(data={"source": "coco_folder", "root": "x", "size": 8}, evaluate={"evaluators": ["reconstruction"]})
    with pytest.raises(UserError, match="at least 11 pixels"):
        evaluate.build(config)
