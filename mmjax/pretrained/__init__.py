"""Models that others trained, from folders in the layout of Hugging Face: one file a family."""

from mmjax.pretrained import bert, clip, dinov2, siglip, t5, vit
from mmjax.pretrained.checkpoint import Checkpoint, load, open_checkpoint, sharding_rules, write
from mmjax.pretrained.peft import is_peft, read_peft, write_peft
from mmjax.pretrained.spec import Encoded, FamilySpec

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Encoded",
    "FamilySpec",
    "is_peft",
    "load",
    "open_checkpoint",
    "read_peft",
    "sharding_rules",
    "write",
    "write_peft",
]

# By `model_type` in config.json.
FAMILIES: dict[str, FamilySpec] = {
    "bert": bert.FAMILY,
    "clip": clip.FAMILY,
    "clip_text_model": clip.TEXT,
    "clip_vision_model": clip.VISION,
    "dinov2": dinov2.FAMILY,
    "dinov2_with_registers": dinov2.REGISTERS,
    "mt5": t5.MT5,
    "siglip": siglip.FAMILY,
    "t5": t5.T5,
    "umt5": t5.UMT5,
    "vit": vit.FAMILY,
}
