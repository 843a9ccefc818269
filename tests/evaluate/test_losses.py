import numpy as np
import pytest

from mmjax.evaluate.losses import losses


@pytest.mark.parametrize("examples", [3, 5, 17])
def test_means_over_examples_without_padding(evaluation_set, examples: int) -> None:
    data = evaluation_set(examples)
    metrics = dict(losses(data.predict, data.batches))
    mean = np.mean(data.losses.astype(np.float64))
    assert list(metrics) == ["loss", "mean_squared_error", "other"]
    assert metrics == pytest.approx({"loss": mean, "mean_squared_error": 2 * mean, "other": mean + 1}, rel=1e-6)


def test_no_examples_gives_no_metric(evaluation_set) -> None:
    data = evaluation_set(0)
    assert not list(losses(data.predict, data.batches))


def test_batch_of_padding_still_runs_the_model(evaluation_set) -> None:
    data = evaluation_set(5)
    padding = next(data.batches()) | {"mask": np.zeros(5, bool)}
    assert not list(losses(data.predict, lambda: [padding])) and data.calls == 1
