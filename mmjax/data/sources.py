"""The sources by name, and how the one that a config names is opened."""

from mmjax.config import DataConfig
from mmjax.data import classes, clips, coco, packed, scenes, sounds, tfds, vqa
from mmjax.data.mixture import mix, provided_by
from mmjax.data.raw import Originals
from mmjax.data.source import Source
from mmjax.types import UserError

# Fields each source provides, known before it is opened: "scene" means that captions are of the scene grammar.
PROVIDES = {
    "scenes": scenes.PROVIDES,
    "coco_folder": coco.PROVIDES,
    "coco_packed": packed.PROVIDES,
    "coco_tfds": tfds.PROVIDES,
    "clips_folder": clips.PROVIDES,
    "classes_folder": classes.PROVIDES,
    "audio_folder": sounds.PROVIDES,
}
FOLDERS = {
    "clips_folder": clips.open_clips,
    "vqa": vqa.open_vqa,
    "classes_folder": classes.open_classes,
    "audio_folder": sounds.open_sounds,
}


def provides(config: DataConfig) -> tuple[str, ...]:
    """What the source that the config names provides, a mixture what mixture.provided_by says."""
    if config.source == "scenes" and config.scenes.questions:
        return scenes.PROVIDES_QUESTIONS
    if config.source == "vqa":
        return vqa.provides(config)
    if config.source != "mixture":
        return PROVIDES[config.source]
    return provided_by([provides(part) for part in config.mixture.values()])


def open_source(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens the source that the config names: its training or its evaluation examples.

    Args:
        config: the config's data.
        training: opens data.train_split, otherwise data.evaluation_split.
        seed: what drawn scenes depend on; other sources do not use it.

    Raises:
        UserError: where the data set is missing, incomplete or of another layout.
    """
    if config.source == "mixture":
        return mix({name: open_source(part, training, seed) for name, part in config.mixture.items()}, config, training)
    source = _open(config, training, seed)
    source.max_corrupt_fraction = config.max_corrupt_fraction
    return source


def _open(config: DataConfig, training: bool, seed: int) -> Source:
    if config.source == "scenes":
        if config.flip:
            raise UserError("data.flip: a mirrored scene makes its caption false (left of, right of); set it to false")
        return scenes.open_scenes(config, training, seed % 2**32)
    if config.source in FOLDERS:
        return FOLDERS[config.source](config, training)
    split = config.train_split if training else config.evaluation_split
    if config.source == "coco_folder":
        return coco.open_coco(config.root, split)
    if config.source == "coco_packed":
        return packed.open_packed(config.root, split, config.resize)
    return tfds.open_tfds(config.root, split, config.shuffle_buffer)


def open_originals(config: DataConfig) -> dict[str, Originals]:
    """What the config's splits can be prepared from, by their names in the config.

    Raises:
        UserError: as open_source, or where the source is none that is prepared.
    """
    splits = dict.fromkeys((config.train_split, config.evaluation_split))
    if config.source == "coco_folder":
        return {split: coco.coco_originals(config.root, split) for split in splits}
    if config.source == "coco_tfds":
        return {split: tfds.tfds_originals(config.root, split) for split in splits}
    raise UserError(f"data.source: mmjax prepare --to takes coco_folder and coco_tfds, not {config.source}")
