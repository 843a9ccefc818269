import pytest

from mmjax import evaluate
from mmjax.config import resolve
from mmjax.types import UserError


def config_dict(**sections):
    return resolve({"train": {"steps": 1}, **sections})


def test_build_returns_the_named_evaluators_and_samples() -> None:
    config = config_dict(evaluate={"evaluators": ["scenes", "losses", "reconstruction", "losses"]})
    assert list(evaluate.build(config)) == ["scenes", "losses", "reconstruction", "samples"]


def test_no_samples() -> None:
    assert list(evaluate.build(config_dict(evaluate={"samples": 0}))) == ["losses"]


def test_codes_need_a_visual_tokenizer() -> None:
    with pytest.raises(UserError, match=r"codes is for a visual_tokenizer, not for model\.kind=direct"):
        evaluate.build(config_dict(evaluate={"evaluators": ["codes"]}))


def test_needed_fields() -> None:
    assert evaluate.NEEDS.keys() <= evaluate.EVALUATORS.keys()
    for name in ("scenes", "diversity", "motion"):
        assert "scene" in evaluate.NEEDS[name]


TERMS = ["answering", "captioning", "classification", "contrastive"]
DESCRIBES = {
    "data": {"size": 64},
    "model": {"kind": "vision_language", "classes": 2},
    "objective": {"terms": dict.fromkeys(TERMS, 1.0)},
}


@pytest.mark.parametrize("name", evaluate.TRAINED_BY)
def test_evaluators_need_their_training_terms(name: str) -> None:
    asked = {"evaluators": [name], "classes": ["cat", "dog"], "samples": 0}
    assert list(evaluate.build(config_dict(**DESCRIBES, evaluate=asked))) == [name]
    lacking = {**DESCRIBES, "objective": {"terms": {"masked_language_modeling": 1.0}}}
    with pytest.raises(UserError, match=f"{name} is for models that were trained by"):
        evaluate.build(config_dict(**lacking, evaluate=asked))


@pytest.mark.parametrize("name", ["scenes", "reconstruction", "feature_distance"])
def test_image_evaluators_need_a_generator(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is for models that draw, not for model.kind=vision_language"):
        evaluate.build(config_dict(**DESCRIBES, evaluate={"evaluators": [name]}))


def test_evaluators_and_metrics_of_image_to_text() -> None:
    names = ["answers", "caption_faithfulness", "retrieval", "classification", "zero_shot"]
    config = config_dict(**DESCRIBES, evaluate={"evaluators": names, "samples": 0, "classes": ["cat", "dog"]})
    assert list(evaluate.build(config)) == names
    assert evaluate.metric_names(config) == (
        "vqa/accuracy", "vqa/question_only", "captions/true", "retrieval/image_to_text_r1", "retrieval/image_to_text_r5",
        "retrieval/image_to_text_r10", "retrieval/text_to_image_r1", "retrieval/text_to_image_r5",
        "retrieval/text_to_image_r10", "classification/accuracy", "zero_shot/accuracy"
    )  # fmt: skip
    assert evaluate.WRITTEN == {"answers": "answer", "captions": "caption", "caption_faithfulness": "caption"}
    assert evaluate.NEEDS["answers"] == ("image", "question") and evaluate.NEEDS["zero_shot"] == ("image", "label")


def test_classes_and_prompts_are_checked_early() -> None:
    with pytest.raises(UserError, match=r"evaluate\.classes: zero_shot needs the classes' names in the order of their"):
        evaluate.build(config_dict(**DESCRIBES, evaluate={"evaluators": ["zero_shot"]}))
    for prompts in ([], ["a photo"], ["a {}", "a photo"]):
        with pytest.raises(UserError, match=r"evaluate\.prompts: needs at least one, each with \{\} where the name"):
            config_dict(evaluate={"prompts": prompts})


CLIPS = {"model": {"kind": "visual_tokenizer", "time_strides": [1, 2]}, "data": {"frames": 8}}
OPEN = {"data": {"scenes": {"fully_specified": False}}}
DESCRIBED_CLIPS = {**DESCRIBES, "data": {"frames": 8, "size": 64}}


def test_scene_evaluators_of_images_and_clips() -> None:
    assert list(evaluate.build(config_dict(**CLIPS, evaluate={"evaluators": ["motion"], "samples": 0}))) == ["motion"]
    names = ["scenes", "diversity"]
    assert list(evaluate.build(config_dict(**OPEN, evaluate={"evaluators": names, "samples": 0}))) == names
    for sections, name, message in [
        (CLIPS, "scenes", r"scenes is for images, and data\.frames is 8; motion is for clips"),
        (
            DESCRIBED_CLIPS,
            "caption_faithfulness",
            r"caption_faithfulness is for images, and data\.frames is 8; motion is for clips",
        ),
        (CLIPS, "diversity", r"diversity is for images, and data\.frames is 8; motion is for clips"),
        (OPEN, "motion", r"motion is for clips, and data\.frames is 1; scenes is for images"),
        ({}, "diversity", r"data\.scenes\.fully_specified"),
    ]:
        with pytest.raises(UserError, match=message):
            evaluate.build(config_dict(**sections, evaluate={"evaluators": [name]}))


def test_metrics_of_scenes() -> None:
    clips = config_dict(**CLIPS, evaluate={"evaluators": ["motion"]})
    images = config_dict(**OPEN, evaluate={"evaluators": ["scenes", "diversity"]})
    assert evaluate.metric_names(clips) == (
        "scenes/motion", "scenes/color", "scenes/shape", "scenes/consistency", "scenes/all"
    )  # fmt: skip
    assert evaluate.metric_names(images) == (
        "scenes/shape", "scenes/color", "scenes/size", "scenes/relation", "scenes/all", "scenes/diversity"
    )  # fmt: skip


def test_unknown_evaluator() -> None:
    with pytest.raises(UserError, match=r"no evaluator 'loses'; known: answers, .*losses, .*scenes"):
        evaluate.build(config_dict(evaluate={"evaluators": ["loses"]}))


def test_too_small_images_are_refused_early() -> None:
    config = config_dict(
        data={"source": "coco_folder", "root": "x", "size": 8}, evaluate={"evaluators": ["reconstruction"]}
    )
    with pytest.raises(UserError, match="at least 11 pixels"):
        evaluate.build(config)
