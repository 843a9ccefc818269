"""Examples from a source to batches: sources, tf.data operations, text tokens, the pipeline.

The only place for TensorFlow, which is imported when a source that needs it is opened and not before.
"""

from mmjax.data.picture import read_picture
from mmjax.data.pipeline import evaluation_batches, evaluation_size, training_batches
from mmjax.data.source import Source
from mmjax.data.sources import PROVIDES, open_source
from mmjax.data.text import Tokenizer, load_tokenizer, train_tokenizer

__all__ = [
    "PROVIDES",
    "Source",
    "Tokenizer",
    "evaluation_batches",
    "evaluation_size",
    "load_tokenizer",
    "open_source",
    "read_picture",
    "train_tokenizer",
    "training_batches",
]
