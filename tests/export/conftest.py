"""Lets the tests here import made_folder beside it; the model folder that several of them read."""

import shutil
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_folder import CONFIG, PROMPTS

import mmjax
from mmjax import data, models
from mmjax.config import Config, resolve
from mmjax.export import DirectImageGenerator, write_model_folder
from mmjax.types import Params


@pytest.fixture(name="config", scope="session")
def config_dict() -> Config:
    return resolve(CONFIG)


@pytest.fixture(name="params", scope="session")
def random_params(config: Config) -> Params:
    return jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())


@pytest.fixture(name="tokenizer", scope="session")
def trained_tokenizer() -> bytes:
    return data.train_tokenizer(PROMPTS * 3, 320)


@pytest.fixture(name="folder", scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, config: Config, params: Params, tokenizer: bytes) -> Path:
    folder = tmp_path_factory.mktemp("export") / "deep" / "model"
    write_model_folder(folder, config, params, tokenizer, 7, {"scenes/all": 0.987654})
    return folder


@pytest.fixture(name="model", scope="session")
def loaded(folder: Path) -> DirectImageGenerator:
    return mmjax.load(folder)


@pytest.fixture(name="copy")
def changeable_copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "model")
