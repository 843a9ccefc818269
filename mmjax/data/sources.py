"""The sources by the names that `data.source` has for them; each is described by its spec, in its own file."""

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
