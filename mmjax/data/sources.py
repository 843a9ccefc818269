"""Registry of sources, the names of `data.source`."""

from mmjax.data import classes, clips, coco, mixture, packed, scenes, sounds, tfds, vqa
from mmjax.data.source import SourceSpec

SOURCES: dict[str, SourceSpec] = {
    "scenes": scenes.SOURCE,
    "coco_folder": coco.SOURCE,
    "coco_packed": packed.SOURCE,
    "coco_tfds": tfds.SOURCE,
    "clips_folder": clips.SOURCE,
    "vqa": vqa.SOURCE,
    "classes_folder": classes.SOURCE,
    "audio_folder": sounds.SOURCE,
    "mixture": mixture.SOURCE,
}
