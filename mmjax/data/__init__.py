"""Data pipeline: sources, preprocessing, text tokens and batches.

Only this package uses TensorFlow, imported lazily for TFDS and buckets.
"""

from mmjax.data import classes, clip, coco, emoji, images_folder, mixture, packed, scenes, sound, tfds, vqa
from mmjax.data.clip import read_clip
from mmjax.data.image import read_image, read_mask, read_pixels
from mmjax.data.mixture import mix
from mmjax.data.packed import SHARD_SIZE, num_examples, rejected, write_packed
from mmjax.data.pipeline import evaluation_batches, evaluation_size, training_batches
from mmjax.data.sound import read_sound
from mmjax.data.source import Source, SourceSpec, open_raw, open_source
from mmjax.data.text import TextTokenizer, Tokenizer, load_tokenizer, tokenizer_file, train_tokenizer
from mmjax.data.text_features import cached_text_features, text_cache_key
from mmjax.data.tokens import open_tokens, token_cache_key, write_tokens

__all__ = [
    "SHARD_SIZE",
    "SOURCES",
    "Source",
    "SourceSpec",
    "TextTokenizer",
    "Tokenizer",
    "cached_text_features",
    "evaluation_batches",
    "evaluation_size",
    "load_tokenizer",
    "mix",
    "num_examples",
    "open_raw",
    "open_source",
    "open_tokens",
    "read_clip",
    "read_image",
    "read_mask",
    "read_pixels",
    "read_sound",
    "rejected",
    "text_cache_key",
    "token_cache_key",
    "tokenizer_file",
    "train_tokenizer",
    "training_batches",
    "write_packed",
    "write_tokens",
]

SOURCES: dict[str, SourceSpec] = {
    "scenes": scenes.SOURCE,
    "coco_folder": coco.SOURCE,
    "coco_packed": packed.SOURCE,
    "coco_tfds": tfds.SOURCE,
    "images_folder": images_folder.SOURCE,
    "clips_folder": clip.SOURCE,
    "vqa": vqa.SOURCE,
    "classes_folder": classes.SOURCE,
    "audio_folder": sound.SOURCE,
    "emoji": emoji.SOURCE,
    "mixture": mixture.SOURCE,
}
