"""What is known of a config before anything is opened, and how long it trains."""

import pytest

from mmjax.config import Config, resolve
from mmjax.engine import setup, trainer
from mmjax.types import UserError


def config_dict(**fields: object) -> Config:
    return resolve({"train": {"steps": 9}} | fields)


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "expected"),
    [(160, 64, 10, (25, 2, 2)), (160, 32, 3, (15, 5, 5)), (7, 64, 5, (1, 1, 1)), (100, 64, 2, (4, 2, 2))],
)
def test_epochs_are_whole(examples: int, batch: int, epochs: int, expected: tuple[int, int, int]) -> None:
    found = trainer.schedule(config_dict(train={"epochs": epochs, "batch": batch}), examples)
    assert (found.steps, found.evaluating.step, found.saving.step) == expected
    assert found.evaluating == found.saving == range(0, found.steps + 1, expected[1])


def due(found: trainer.Schedule, first: int) -> tuple[list[int], list[int]]:
    """The steps from `first` on after which it evaluates, and after which it saves."""
    steps = range(first, found.steps + 1)
    return [step for step in steps if found.due(step)[0]], [step for step in steps if found.due(step)[1]]


def test_epochs_end_where_they_would_have_ended_with_another_batch() -> None:
    given = config_dict(train={"epochs": 3, "batch": 32, "checkpoint_every": 4})
    # 20 steps of 8 are an epoch of 160; of the second one 80 are seen when it goes on with 32.
    found = trainer.schedule(given, 160, [[0, 8], [30, 32]])
    assert found.steps == 30 + (3 * 160 - 240 + 16) // 32 == 38
    assert due(found, 31) == ([33, 38], [32, 36, 38])
    # All was seen already; what is given in steps stays.
    assert trainer.schedule(given, 160, [[0, 8], [61, 32]]).steps == 61
    assert trainer.schedule(config_dict(train={"steps": 9, "batch": 32}), 160, [[0, 8], [3, 32]]).steps == 9
    # With a smaller batch the epoch that goes on began, in its own steps, before the training did.
    found = trainer.schedule(config_dict(train={"epochs": 2, "batch": 2}), 160, [[0, 32], [3, 2]])
    assert found.steps == 3 + 112 and due(found, 4) == ([35, 115], [35, 115])


def test_intervals_that_are_given_and_a_warm_up_that_is_too_long() -> None:
    given = config_dict(train={"steps": 10, "evaluate_every": 2, "checkpoint_every": 3})
    found = trainer.schedule(given, 1000)
    assert found == trainer.Schedule(10, range(0, 11, 2), range(0, 11, 3))
    assert due(found, 1) == ([2, 4, 6, 8, 10], [3, 6, 9, 10])
    with pytest.raises(UserError, match=r"optimizer.warmup_steps: 9 leaves nothing of the 9 steps"):
        trainer.schedule(config_dict(optimizer={"warmup_steps": 9}), 1000)


def told(config: Config) -> str:
    with pytest.raises(UserError) as error:
        setup.check(config)
    return str(error.value)


def test_the_metric_that_decides_must_be_one_that_is_given() -> None:
    setup.check(config_dict(train={"steps": 9, "best_metric": "-mean_squared_error"}))
    setup.check(config_dict(train={"steps": 9, "best_metric": ""}))
    message = told(config_dict(train={"steps": 9, "best_metric": "scene/all"}))
    assert message.startswith("train.best_metric: ") and "scene/all" in message and "loss" in message


def test_a_kernel_and_a_batch_that_do_not_fit_the_devices() -> None:
    compute = {"attention": "cudnn", "dtype": "bfloat16"}
    assert told(config_dict(compute=compute)).startswith("compute.attention: cudnn ")
    batch = config_dict(train={"steps": 9, "batch": 8}, optimizer={"grad_accum_steps": 2})
    assert told(batch).startswith("train.batch / optimizer.grad_accum_steps: 4 ")


@pytest.mark.parametrize(
    ("metric", "kind", "warned"),
    [("-loss", "contrastive", True), ("-pairs", "contrastive", True), ("-words", "contrastive", False),
     ("-loss", "captioning", False)],
)  # fmt: skip
def test_warns_of_a_best_metric_that_depends_on_the_batch(
    metric: str, kind: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    terms = {"pairs": {"kind": kind}, "words": {"kind": "masked_language_modeling"}}
    config = config_dict(
        model={"kind": "vision_language"}, losses=terms, train={"steps": 1, "batch": 8, "best_metric": metric}
    )
    setup.check(config)
    assert [f"train.best_metric={metric}" in record.message for record in caplog.records] == [True] * warned
