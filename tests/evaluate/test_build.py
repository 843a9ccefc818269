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


def test_codes_are_of_a_visual_tokenizer_only() -> None:
    assert "codes" in refused("codes") and "model.kind=direct_generator" in refused("codes")


def refused(name: str, **sections) -> str:
    """What is said of a config that asks for this evaluator alone; it is named there."""
    with pytest.raises(UserError) as error:
        evaluate.build(config_dict(**sections, evaluate={"evaluators": [name], "samples": 0}))
    message = str(error.value)
    assert message.startswith(f"evaluate.evaluators: {name} ") and "\n" not in message
    return message


# The losses of which one must have trained the model for an evaluator to be about it.
TRAINED_BY = {
    "answers": "answering",
    "captions": "captioning",
    "caption_faithfulness": "captioning",
    "classification": "classification",
    "retrieval": "contrastive",
    "zero_shot": "contrastive",
}
DESCRIBES = {
    "data": {"size": 64},
    "model": {"kind": "vision_language", "classes": 2},
    "losses": {name: {} for name in TRAINED_BY.values()},
}


@pytest.mark.parametrize("name", TRAINED_BY)
def test_models_are_asked_for_what_they_learned(name: str) -> None:
    asked = {"evaluators": [name], "classes": ["cat", "dog"], "samples": 0}
    alone = {**DESCRIBES, "losses": {TRAINED_BY[name]: {}}}
    assert list(evaluate.build(config_dict(**alone, evaluate=asked))) == [name]
    others = {**DESCRIBES, "losses": {term: {} for term in set(TRAINED_BY.values()) - {TRAINED_BY[name]}}}
    for lacking in (others, {**DESCRIBES, "losses": {"masked_language_modeling": {}}}):
        assert "model.kind=vision_language with the losses " + ", ".join(lacking["losses"]) in refused(name, **lacking)


def test_either_contrastive_loss_trains_embeddings() -> None:
    config = config_dict(**{**DESCRIBES, "losses": {"sigmoid_contrastive": {}}}, evaluate={"evaluators": ["retrieval"]})
    assert "retrieval" in evaluate.build(config)


@pytest.mark.parametrize("name", ["scenes", "reconstruction", "feature_distance"])
def test_models_that_draw_nothing_are_not_asked_for_images(name: str) -> None:
    assert "'image'" in refused(name, **DESCRIBES) and "model.kind=vision_language" in refused(name, **DESCRIBES)


def test_fields_that_evaluators_read_must_be_given() -> None:
    config = config_dict(**DESCRIBES, evaluate={"evaluators": ["answers"]})
    evaluate.check_fields(config, ("image", "question"), "data.source=some")
    for given in (("image",), ("question", "text")):
        with pytest.raises(UserError, match=r"evaluate\.evaluators: answers .*data\.source=some"):
            evaluate.check_fields(config, given, "data.source=some")


def test_evaluators_and_metrics_of_image_to_text() -> None:
    names = ["answers", "caption_faithfulness", "retrieval", "classification", "zero_shot"]
    config = config_dict(**DESCRIBES, evaluate={"evaluators": names, "samples": 0, "classes": ["cat", "dog"]})
    assert list(evaluate.build(config)) == names
    assert evaluate.metric_names(config) == (
        "vqa/accuracy", "vqa/question_only", "captions/true", "retrieval/image_to_text_r1",
        "retrieval/image_to_text_r5", "retrieval/image_to_text_r10", "retrieval/text_to_image_r1",
        "retrieval/text_to_image_r5", "retrieval/text_to_image_r10", "classification/accuracy", "zero_shot/accuracy"
    )  # fmt: skip
    found = evaluate.find(config)
    assert found["answers"].predictions == ("answer",) and found["answers"].fields == ("image", "question")
    assert found["caption_faithfulness"].predictions == ("caption",)
    assert found["zero_shot"].fields == ("image", "label")


def test_what_evaluators_of_scenes_read() -> None:
    for name in ("scenes", "diversity", "motion"):
        assert "scene" in evaluate.EVALUATORS[name].fields


def test_classes_and_prompts_are_checked_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"evaluate\.classes: zero_shot"):
        evaluate.build(config_dict(**DESCRIBES, evaluate={"evaluators": ["zero_shot"]}))
    for prompts in ([], ["a photo"], ["a {}", "a photo"]):
        with pytest.raises(UserError, match=r"evaluate\.prompts: .*\{\}"):
            config_dict(evaluate={"prompts": prompts})


CLIPS = {"model": {"kind": "visual_tokenizer", "time_strides": [1, 2]}, "data": {"frames": 8}}
OPEN = {"data": {"scenes": {"fully_specified": False}}}
DESCRIBED_CLIPS = {**DESCRIBES, "data": {"frames": 8, "size": 64}}


def test_scene_evaluators_of_images_and_clips() -> None:
    assert list(evaluate.build(config_dict(**CLIPS, evaluate={"evaluators": ["motion"], "samples": 0}))) == ["motion"]
    names = ["scenes", "diversity"]
    assert list(evaluate.build(config_dict(**OPEN, evaluate={"evaluators": names, "samples": 0}))) == names
    for sections, name, wrong in [
        (CLIPS, "scenes", "data.frames is 8"),
        (DESCRIBED_CLIPS, "caption_faithfulness", "data.frames is 8"),
        (CLIPS, "diversity", "data.frames is 8"),
        (OPEN, "motion", "data.frames is 1"),
        ({}, "diversity", "data.scenes.fully_specified"),
    ]:
        assert wrong in refused(name, **sections)


def test_metrics_of_scenes() -> None:
    clips = config_dict(**CLIPS, evaluate={"evaluators": ["motion"]})
    images = config_dict(**OPEN, evaluate={"evaluators": ["scenes", "diversity"]})
    assert evaluate.metric_names(clips) == (
        "scenes/motion", "scenes/color", "scenes/shape", "scenes/consistency", "scenes/all"
    )  # fmt: skip
    assert evaluate.metric_names(images) == (
        "scenes/shape", "scenes/color", "scenes/size", "scenes/relation", "scenes/all", "scenes/diversity"
    )  # fmt: skip


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluate\.evaluators: no evaluator 'loses'; did you mean losses\?"):
        evaluate.build(config_dict(evaluate={"evaluators": ["loses"]}))


def test_too_small_images_are_refused_early() -> None:
    config = config_dict(
        data={"source": "coco_folder", "root": "x", "size": 8}, evaluate={"evaluators": ["reconstruction"]}
    )
    with pytest.raises(UserError, match="at least 11 pixels"):
        evaluate.build(config)
