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
    steps, evaluating, saving = trainer.intervals(config_dict(train={"epochs": epochs, "batch": batch}), examples)
    assert (steps, evaluating.step, saving.step) == expected
    assert evaluating == saving == range(0, steps + 1, expected[1])


def test_epochs_end_where_they_would_have_ended_with_another_batch() -> None:
    given = config_dict(train={"epochs": 3, "batch": 32, "checkpoint_every": 4})
    # 20 steps of 8 are an epoch of 160; of the second one 80 are seen when it goes on with 32.
    steps, evaluating, saving = trainer.intervals(given, 160, [[0, 8], [30, 32]])
    assert steps == 30 + (3 * 160 - 240 + 16) // 32 == 38
    assert [step for step in range(31, steps + 1) if step in evaluating] == [33, 38]
    assert [step for step in range(31, steps + 1) if step in saving] == [32, 36]
    # All was seen already; what is given in steps stays.
    assert trainer.intervals(given, 160, [[0, 8], [61, 32]])[0] == 61
    assert trainer.intervals(config_dict(train={"steps": 9, "batch": 32}), 160, [[0, 8], [3, 32]])[0] == 9
    # With a smaller batch the epoch that goes on began, in its own steps, before the training did.
    steps, evaluating, _ = trainer.intervals(config_dict(train={"epochs": 2, "batch": 2}), 160, [[0, 32], [3, 2]])
    assert steps == 3 + 112 and [step for step in range(4, steps + 1) if step in evaluating] == [35, 115]


def test_intervals_that_are_given_and_a_warm_up_that_is_too_long() -> None:
    given = config_dict(train={"steps": 9, "evaluate_every": 2, "checkpoint_every": 3})
    assert trainer.intervals(given, 1000) == (9, range(0, 10, 2), range(0, 10, 3))
    with pytest.raises(UserError, match=r"optimizer.warmup_steps: 9 leaves nothing of the 9 steps"):
        trainer.intervals(config_dict(optimizer={"warmup_steps": 9}), 1000)


def told(config: Config) -> str:
    with pytest.raises(UserError) as error:
        setup.check(config)
    return str(error.value)


def test_the_metric_that_decides_must_be_one_that_is_given() -> None:
    setup.check(config_dict(train={"steps": 9, "best_metric": "-mean_squared_error"}))
    setup.check(config_dict(train={"steps": 9, "best_metric": ""}))
    assert "no evaluator of this config gives scene/all; they give loss," in told(
        config_dict(train={"steps": 9, "best_metric": "scene/all"})
    )


def test_a_kernel_and_a_batch_that_do_not_fit_the_devices() -> None:
    model = {"attention": "cudnn", "dtype": "bfloat16"}
    assert "cudnn needs an NVIDIA GPU" in told(config_dict(model=model))
    batch = config_dict(train={"steps": 9, "batch": 8}, optimizer={"grad_accum_steps": 2})
    assert told(batch).startswith("train.batch / optimizer.grad_accum_steps: 4 does not split over 8 devices")
