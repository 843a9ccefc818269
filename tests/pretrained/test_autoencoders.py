"""Autoencoders: mmjax.load, names of several kinds, whole checkpoints and pipelines, options, a missing config.json."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import REFERENCES, with_settings
from messages import error_message
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import pretrained
from mmjax.cli import main
from mmjax.export import PretrainedAutoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_pipeline_encodes_and_decodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_settings(tmp_path, "autoencoder_tiny").rename(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    model = mmjax.load(tmp_path)
    assert type(model) is PretrainedAutoencoder and not hasattr(model, "embed_image")
    reference = load_file(REFERENCES / "autoencoder_tiny" / "reference.safetensors")
    images = np.clip(reference["image"], -1, 1)
    latents = model.encode(images)
    assert latents.shape == (2, 4, 2, 3) and np.abs(latents - reference["latents"]).max() > 1e-3
    decoded = model.decode(reference["other_latents"])
    wanted = np.rint(np.clip((reference["decoded"] + 1) * 127.5, 0, 255))
    assert decoded.dtype == np.uint8 and np.abs(decoded - wanted).max() <= 1 and decoded.std() > 1
    assert "multiples of 4 pixels" in error_message(model.encode, images[:, :6])
    assert "[n, v, u, 3]" in error_message(model.decode, images[..., :2])
    assert main(["inspect", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for words in ("AutoencoderTiny (_class_name", "3 channels for 4 x 4 pixels, (z - 0.2) * 0.9", "encode, decode"):
        assert words in told


def test_old_names_of_attention_and_a_whole_checkpoint(tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    folder = with_settings(tmp_path, "autoencoder_kl")
    tensors = load_file(folder / WEIGHTS)
    for new, before in old.items():
        tensors = {name.replace(f".{new}.", f".{before}."): tensor for name, tensor in tensors.items()}
    other = {"model.diffusion_model.out.weight": np.zeros(3, np.float32), "betas": np.zeros(3, np.float32)}
    save_file({f"vae.{name}": tensor for name, tensor in tensors.items()} | other, folder / WEIGHTS)
    checkpoint = pretrained.open_checkpoint(folder)
    params = pretrained.load(checkpoint)
    pretrained.write(tmp_path / "out", checkpoint, params)
    written = load_file(tmp_path / "out" / WEIGHTS)
    assert written.keys() == {f"vae.{name}" for name in tensors}
    assert all(np.array_equal(written[f"vae.{name}"], tensor) for name, tensor in tensors.items())
    wanted = load_file(REFERENCES / "autoencoder_kl" / WEIGHTS)["decoder.mid_block.attentions.0.to_v.weight"]
    assert np.array_equal(params["decoder"]["middle"]["attention"]["v"]["kernel"][:, 0], wanted.T)


def test_the_config_that_is_missing_beside_the_original_file(tmp_path: Path) -> None:
    folder = with_settings(tmp_path, "autoencoder_kl_original")
    (folder / WEIGHTS).rename(folder / "ae.safetensors")
    config = folder / "config.json"
    config.unlink()
    message = error_message(mmjax.load, folder)
    assert "ae.safetensors" in message and "scaling_factor" in message
    settings = (
        message[message.index("{") : message.index("}") + 1].replace(": S", ": 0.3611").replace(": T", ": 0.1159")
    )
    config.write_text(json.dumps(json.loads(settings) | {"norm_num_groups": 2}))
    opened = pretrained.open_checkpoint(folder).config
    assert opened == pretrained.open_checkpoint(REFERENCES / "autoencoder_kl_original").config
    assert opened.original and opened.layers_per_block == 2 and not opened.use_quant_conv
    assert "is a file" in error_message(mmjax.load, folder / "ae.safetensors")
    shutil.copy(folder / "ae.safetensors", folder / "more.safetensors")
    assert "ae.safetensors, more.safetensors" in error_message(mmjax.load, folder)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("autoencoder_kl", {"act_fn": "mish"}, ("act_fn: 'mish'", "'silu'")),
        ("autoencoder_kl", {"up_block_types": ["AttnUpDecoderBlock2D"] * 3}, ("up_block_types", "UpDecoderBlock2D")),
        ("autoencoder_kl", {"norm_num_groups": 32}, ("norm_num_groups: 32 does not divide 4",)),
        ("autoencoder_kl", {"block_out_channels": 4}, ("block_out_channels", "list")),
        ("autoencoder_kl", {"block_out_channels": [4, "6"]}, ("block_out_channels", "whole number", "'6'")),
        ("autoencoder_kl", {"layers_per_block": 10**6}, ("layers_per_block", "1,000")),
        ("autoencoder_kl", {"latents_mean": [1.0]}, ("latents_mean: must be 3 numbers",)),
        ("autoencoder_kl", {"scaling_factor": 0}, ("scaling_factor",)),
        ("autoencoder_kl", {"use_quant_conv": False}, ("not known: quant_conv.bias, quant_conv.weight",)),
        ("autoencoder_kl", {"layers_per_block": 2}, ("without: ", "encoder.down_blocks.0.resnets.1.conv1.weight")),
        ("autoencoder_kl", {"_class_name": "AutoencoderDC"}, ("_class_name", "AutoencoderDC")),
        ("autoencoder_kl", {"_class_name": "AutoencoderTiny"}, ("act_fn: 'silu'",)),
        ("autoencoder_kl", {"_class_name": "AutoencoderKLFlux2"}, ("without: bn.running_mean, bn.running_var",)),
        ("autoencoder_kl_flux2", {"patch_size": [1, 1]}, ("patch_size: [1, 1]", "[2, 2]")),
        ("autoencoder_kl_flux2", {"decoder_block_out_channels": [6]}, ("decoder_block_out_channels",)),
        ("autoencoder_tiny", {"upsample_fn": "bilinear"}, ("upsample_fn: 'bilinear'",)),
        ("autoencoder_tiny", {"num_encoder_blocks": [1, 2]}, ("num_encoder_blocks",)),
        ("autoencoder_tiny", {"encoder_block_out_channels": [6, 6, 8]}, ("encoder_block_out_channels", "equal")),
    ],
)
def test_options_that_are_not_supported_are_named(
    name: str, settings: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    message = error_message(mmjax.load, with_settings(tmp_path, name, **settings))
    for word in words:
        assert word in message, message
