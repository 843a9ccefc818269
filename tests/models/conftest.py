"""What the tests of several models share: each test file's own CONFIG, resolved, and parameters of its model."""

from typing import Any

import jax
import pytest

from mmjax import models
from mmjax.config import Config, resolve


@pytest.fixture(name="config", scope="module")
def resolved_config(request: pytest.FixtureRequest) -> Config:
    return resolve(request.module.CONFIG)


@pytest.fixture(name="params", scope="module")
def random_params(config: Config) -> Any:
    return jax.jit(lambda: models.init(config, jax.random.key(1)))()
