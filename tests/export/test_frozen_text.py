"""The frozen text encoder: whose it is, its file, its features, and what is broken."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.config import ComponentConfig, resolve
from mmjax.export import frozen_text
from mmjax.models import text_encoder
from mmjax.models.text_encoder import TextEncoderSettings
from mmjax.nn.compute import DEFAULT
from mmjax.types import UserError

SETTINGS = TextEncoderSettings(vocabulary=311, width=12, layers=2, heads=3)
TOKENIZER = {"model": {"kind": "visual_tokenizer", "widths": [8]}, "train": {"steps": 1}}
GENERATOR: dict[str, Any] = {
    "text": {"vocabulary": 311},
    "model": {"kind": "masked_generator", "width": 12, "heads": 3, "text_layers": 2, "layers": 5},
    "components": {"visual_tokenizer": TOKENIZER},
    "losses": {"masked_visual_modeling": {}},
    "train": {"steps": 1},
}
COMPONENT = ComponentConfig(config=resolve(GENERATOR))
TEXT = jnp.array([[7, 9, 310, 3, 0], [3, 0, 0, 0, 0]], jnp.int32)


@pytest.fixture(name="frozen", scope="module")
def random_encoder() -> frozen_text.FrozenText:
    params = jax.jit(lambda: frozen_text.init(COMPONENT, jax.random.key(1)))()
    return frozen_text.FrozenText(COMPONENT, jax.device_get(params), b"pieces\0")


def test_whose_it_is() -> None:
    assert text_encoder.settings(resolve(GENERATOR)) == SETTINGS
    direct = {"model": {"width": 12, "heads": 3}, "text": {"vocabulary": 311}, "train": {"steps": 1}}
    assert text_encoder.settings(resolve(direct)) == SETTINGS
    other = {**GENERATOR, "model": {**GENERATOR["model"], "width": 8, "heads": 2}}
    stands_on = {**other, "components": {"visual_tokenizer": TOKENIZER, "text_encoder": GENERATOR}}
    assert text_encoder.settings(resolve(stands_on)) == SETTINGS
    with pytest.raises(UserError, match="visual_tokenizer"):
        text_encoder.settings(resolve(TOKENIZER))


def test_the_round_trip_is_exact(frozen: frozen_text.FrozenText, tmp_path: Path) -> None:
    frozen_text.write(tmp_path / "encoder.safetensors", frozen)
    found = frozen_text.read(tmp_path / "encoder.safetensors")
    assert (found.component, found.tokenizer) == (frozen.component, frozen.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, found.params, frozen.params)
    content = (tmp_path / "encoder.safetensors").read_bytes()
    for broken in (b"", content[:100], content[:-1], content.replace(b"vocabulary", b"vocabulary".upper())):
        (tmp_path / "encoder.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match=r"^\S*/encoder\.safetensors: "):
            frozen_text.read(tmp_path / "encoder.safetensors")
    kind = b'\\"kind\\": \\"%s\\"'
    foreign = content.replace(kind % b"masked_visual_modeling", kind % b"some_pack.loss:A_LOSS1")
    assert foreign != content
    (tmp_path / "encoder.safetensors").write_bytes(foreign)
    with pytest.raises(UserError, match=r"encoder\.safetensors: .*--plugins=some_pack"):
        frozen_text.read(tmp_path / "encoder.safetensors")
    with pytest.raises(UserError, match="is no text encoder of mmjax"):
        frozen_text.read(tmp_path / "none.safetensors")


def test_features_follow_from_the_text_alone(frozen: frozen_text.FrozenText) -> None:
    encode = frozen_text.encoder(COMPONENT, DEFAULT)
    found = np.asarray(encode(frozen.params, TEXT))
    assert found.dtype == np.float16 and found.shape == (2, 5, 12)
    assert (found[TEXT == 0] == 0).all() and np.abs(found[TEXT != 0]).min(axis=1).all()
    longer = encode(frozen.params, jnp.pad(TEXT, ((0, 0), (0, 2))))
    np.testing.assert_allclose(longer[:, :5], found, atol=4e-3)
    np.testing.assert_allclose(encode(frozen.params, TEXT[1:])[0], found[1], atol=4e-3)
