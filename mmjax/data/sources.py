"""Registry of sources, the names of `data.source`."""

from mmjax.data import classes, clip, coco, mixture, packed, scenes, sound, tfds, vqa
from mmjax.data.source import SourceSpec

SOURCES: dict[str, SourceSpec] = {
    "scenes": scenes.SOURCE,
    "coco_folder": coco.SOURCE,
    "coco_packed": packed.SOURCE,
    "coco_tfds": tfds.SOURCE,
    "clips_folder": clip.SOURCE,
    "vqa": vqa.SOURCE,
    "classes_folder": classes.SOURCE,
    "audio_folder": sound.SOURCE,
    "mixture": mixture.SOURCE,
}
