"""ResNet and DINOv3: names of timm, buffers, and options that are not supported."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import REFERENCES, with_settings
from messages import error_message
from safetensors.numpy import load_file

import mmjax
from mmjax import pretrained
from mmjax.export import PretrainedImageEncoder
from mmjax.pretrained import names
from mmjax.pretrained.checkpoint import _shapes


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_names_and_shapes_of_timm(architecture: str) -> None:
    wanted = json.loads((REFERENCES / "timm.json").read_text())[architecture]
    spec = pretrained.FAMILIES[architecture]
    assert spec.parse
    config = spec.parse({"architecture": architecture, "num_classes": 1000}, "")
    config = type(config)(**{**vars(config), "hugging_face": False})
    found = dict(names.wanted(spec.table(config), _shapes(spec, config)))
    assert found == {name: tuple(shape) for name, shape in wanted.items() if "num_batches_tracked" not in name}


def test_features_and_images_of_timm(tmp_path: Path) -> None:
    folder = with_settings(tmp_path, "resnet_torchvision")
    shutil.copyfile(REFERENCES / "images/convnext/preprocessor_config.json", folder / "preprocessor_config.json")
    assert "smaller than a patch of 32" in error_message(
        mmjax.load(folder).embed_image, [np.zeros((9, 9, 3), np.uint8)]
    )
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 40, "do_normalize": False}))
    model = mmjax.load(folder)
    assert type(model) is PretrainedImageEncoder
    images = np.zeros((1, 9, 9, 3), np.uint8)
    assert model.encode_image(images).shape == (1, 5 * 5, 10) and model.embed_image(images).shape == (1, 10)


def test_buffers_that_are_absent_are_not_written(tmp_path: Path) -> None:
    checkpoint = pretrained.open_checkpoint(REFERENCES / "resnet")
    assert len(checkpoint.buffers) == 12 and "resnet.embedder.embedder.normalization.num_batches_tracked" in (
        checkpoint.buffers
    )
    pretrained.write(tmp_path, checkpoint, pretrained.load(checkpoint))
    written = load_file(tmp_path / "model.safetensors")
    assert written["resnet.embedder.embedder.normalization.num_batches_tracked"] == 7


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet", {"layer_type": "wide"}, ("layer_type: 'wide'", "basic, bottleneck")),
        ("resnet", {"downsample_in_bottleneck": True}, ("downsample_in_bottleneck: True",)),
        ("resnet", {"hidden_sizes": [12, 36]}, ("hidden_sizes: [12, 36]", "[12, 24]")),
        ("resnet", {"depths": [2, 10**7]}, ("depths", "1,000")),
        ("resnet", {"depths": [2, 2]}, ("without: encoder.stages.1.layers.1.layer.0.convolution.weight",)),
        ("resnet", {"id2label": {"0": "cat"}}, ("fc.bias [3] for [1]",)),
        ("resnet", {"model_type": "dinov3_vit"}, ("without: embeddings.cls_token", "not known: classifier.1.bias")),
        ("dinov3", {"num_attention_heads": 8}, ("num_attention_heads: 8",)),
        ("dinov3", {"num_register_tokens": 4}, ("embeddings.register_tokens [1, 3, 24] for [1, 4, 24]",)),
        ("dinov3", {"key_bias": True}, ("without: layer.0.attention.k_proj.bias, layer.1.attention.k_proj.bias",)),
        ("dinov3", {"use_gated_mlp": True}, ("without: layer.0.mlp.gate_proj.bias",)),
        ("dinov3", {"image_size": [12, 12]}, ("image_size", "whole number")),
    ],
)
def test_options_that_are_not_supported_are_named(
    name: str, settings: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    message = error_message(mmjax.load, with_settings(tmp_path, name, **settings))
    for word in words:
        assert word in message, message
