"""Models that others trained, from folders in the layout of Hugging Face: one file a family."""

from mmjax.pretrained import (
    autoencoder_kl,
    autoencoder_kl_flux2,
    autoencoder_tiny,
    bert,
    clip,
    dinov2,
    dinov3,
    resnet,
    siglip,
    t5,
    vit,
)
from mmjax.pretrained.checkpoint import KINDS, Checkpoint, load, model_folder, open_checkpoint, sharding_rules, write
from mmjax.pretrained.peft import is_peft, read_peft, write_peft
from mmjax.pretrained.safetensors_files import listed
from mmjax.pretrained.spec import Encoded, FamilySpec

__all__ = [
    "FAMILIES",
    "KINDS",
    "Checkpoint",
    "Encoded",
    "FamilySpec",
    "is_peft",
    "listed",
    "load",
    "model_folder",
    "open_checkpoint",
    "read_peft",
    "sharding_rules",
    "write",
    "write_peft",
]

# By `model_type` in config.json, diffusers' `_class_name`, or timm's `architecture`.
FAMILIES: dict[str, FamilySpec] = {
    "AutoencoderKL": autoencoder_kl.FAMILY,
    "AutoencoderKLFlux2": autoencoder_kl_flux2.FAMILY,
    "AutoencoderTiny": autoencoder_tiny.FAMILY,
    "bert": bert.FAMILY,
    "clip": clip.FAMILY,
    "clip_text_model": clip.TEXT,
    "clip_vision_model": clip.VISION,
    "dinov2": dinov2.FAMILY,
    "dinov2_with_registers": dinov2.REGISTERS,
    "dinov3_vit": dinov3.FAMILY,
    "mt5": t5.MT5,
    "resnet": resnet.FAMILY,
    **dict.fromkeys(resnet.ARCHITECTURES, resnet.TIMM),
    "siglip": siglip.FAMILY,
    "t5": t5.T5,
    "umt5": t5.UMT5,
    "vit": vit.FAMILY,
}
