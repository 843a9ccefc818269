"""The sources by name, and how the one that a recipe names is opened."""

import importlib.util

from mmjax.config import Data
from mmjax.data import clips, coco, scenes, tfds
from mmjax.data.source import Source
from mmjax.types import UserError

# Fields each source provides, known before it is opened: "scene" means that captions are of the scene grammar.
PROVIDES = {
    "scenes": scenes.PROVIDES,
    "coco_folder": coco.PROVIDES,
    "coco_tfds": tfds.PROVIDES,
    "clips_folder": clips.PROVIDES,
}


def open_source(config: Data, training: bool, seed: int) -> Source:
    """Opens the source that the recipe names: its training or its evaluation examples.

    Args:
        config: the recipe's data.
        training: opens data.train_split, otherwise data.evaluation_split.
        seed: what drawn scenes depend on; other sources do not use it.

    Raises:
        UserError: where the data set is missing, incomplete or of another layout.
    """
    if config.source == "scenes":
        if config.flip:
            raise UserError("data.flip: a mirrored scene makes its caption false (left of, right of); set it to false")
        return scenes.open_scenes(config, training, seed % 2**32)
    if config.source == "clips_folder":
        return clips.open_clips(config, training)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"data.source: {config.source} needs TensorFlow, as in pip install tensorflow-cpu; scenes and clips_folder "
            "do not"
        )
    split = config.train_split if training else config.evaluation_split
    if config.source == "coco_folder":
        return coco.open_coco(config.root, split)
    return tfds.open_tfds(config.root, split, config.shuffle_buffer)
