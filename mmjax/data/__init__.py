"""Examples from a source to batches: sources, images, text tokens, the pipeline.

The only place for TensorFlow, which is imported where a bucket is read and not before.
"""

from mmjax.data.clip import read_clip
from mmjax.data.image import read_image, read_mask
from mmjax.data.mixture import mix
from mmjax.data.pipeline import evaluation_batches, evaluation_size, training_batches
from mmjax.data.sound import read_sound
from mmjax.data.source import Source, SourceSpec, open_raw, open_source
from mmjax.data.text import Tokenizer, load_tokenizer, train_tokenizer
from mmjax.data.text_features import cached_text_features, text_address
from mmjax.data.tokens import open_tokens, token_address
from mmjax.data.write_packed import SHARD_SIZE, write_prepared
from mmjax.data.write_tokens import write_tokens

__all__ = [
    "SHARD_SIZE",
    "Source",
    "SourceSpec",
    "Tokenizer",
    "cached_text_features",
    "evaluation_batches",
    "evaluation_size",
    "load_tokenizer",
    "mix",
    "open_raw",
    "open_source",
    "open_tokens",
    "read_clip",
    "read_image",
    "read_mask",
    "read_sound",
    "text_address",
    "token_address",
    "train_tokenizer",
    "training_batches",
    "write_prepared",
    "write_tokens",
]
