import numpy as np
import pytest

from mmjax.evaluate.samples import samples


@pytest.mark.parametrize(("count", "given"), [(2, 2), (5, 5), (7, 7), (11, 11), (100, 13)])
def test_first_examples_with_their_prompts(evaluation_set, count: int, given: int) -> None:
    data = evaluation_set(13)
    ((name, value),) = samples(count)(data.predict, data.batches)
    assert name == "samples"
    assert value.prompts == [f"caption {i}" for i in range(given)]
    assert list(value.rows) == ["generated", "original"]
    np.testing.assert_array_equal(value.rows["original"], np.round((data.original[:given] + 1) * 127.5))
    np.testing.assert_array_equal(value.rows["generated"], np.round((np.clip(data.drawn[:given], -1, 1) + 1) * 127.5))
    assert data.calls == min(-(-count // 5), 3)  # no more of the model than needed


def test_no_samples(evaluation_set) -> None:
    data = evaluation_set(3)
    assert list(samples(0)(data.predict, data.batches)) == []
    assert data.calls == 0
    empty = evaluation_set(0)
    assert list(samples(3)(empty.predict, empty.batches)) == []


def test_image_without_captions_has_an_empty_prompt(evaluation_set) -> None:
    data = evaluation_set(2)
    batch = next(data.batches())
    batch["captions"] = [[] for _ in batch["captions"]]
    ((_, value),) = samples(2)(data.predict, lambda: [batch])
    assert value.prompts == ["", ""]


def test_clips_keep_frames_and_frame_rate(evaluation_set) -> None:
    data = evaluation_set(7, frames=(3,))
    ((_, value),) = samples(6, 12.5)(data.predict, data.batches)
    assert value.frame_rate == 12.5 and value.rows["generated"].shape == (6, 3, 13, 17, 3)
    np.testing.assert_array_equal(value.rows["original"], np.round((data.original[:6] + 1) * 127.5))


def test_batches_without_images(evaluation_set) -> None:
    data = evaluation_set(7)
    batches = lambda: ({k: v for k, v in batch.items() if k != "image"} for batch in data.batches())  # noqa: E731
    ((_, value),) = samples(6)(data.predict, batches)
    assert list(value.rows) == ["generated"] and len(value.rows["generated"]) == len(value.prompts) == 6
