"""Small data sets that the tests of mmjax.data read, made by Pillow and TFDS."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmjax.config import Config, resolve


def make_image(number: int, height: int = 41, width: int = 53) -> np.ndarray:
    """A smooth color image that tells its number, uint8 [y, x, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, np.full_like(x, number * 37 % 256, dtype=float)]
    return np.stack(channels, -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(number: int, **size: int) -> bytes:
    return encoded(Image.fromarray(make_image(number, **size)), "JPEG", quality=95)


def write_coco(
    root: Path, split: str, images: Mapping[int, bytes | None], captions: Mapping[int, Sequence[str]] | None = None
) -> Path:
    """A COCO folder; an image of None is named by the annotations but absent. Without captions, five each."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    prefix = "COCO_train2014_" if split == "train2014" else ""
    for number, content in images.items():
        if content is not None:
            (root / split / f"{prefix}{number:012d}.jpg").write_bytes(content)
    texts = captions or {number: [f"image {number} caption {i}" for i in range(5)] for number in images}
    entries = [{"id": number, "file_name": f"{prefix}{number:012d}.jpg"} for number in images]
    pairs = [(number, text) for number, row in texts.items() for text in row]
    annotations = [{"id": i, "image_id": number, "caption": text} for i, (number, text) in enumerate(pairs)]
    tree = {"info": {}, "images": entries[::-1], "annotations": annotations}
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(tree))
    return root


def write_vqa(root: Path, split: str, rows: Sequence[tuple[int, str, Sequence[str]]], first: int = 0) -> Path:
    """VQAv2's two files of questions about images, named by their ids, with answers; returns the path below root."""
    questions, annotations = [], []
    for number, (image, question, answers) in enumerate(rows, first):
        named = {"question_id": 10 * number + 7, "image_id": image}
        questions.append({**named, "question": question})
        given = [{"answer": text, "answer_confidence": "yes", "answer_id": i + 1} for i, text in enumerate(answers)]
        annotations.append({**named, "answers": given, "question_type": "what", "multiple_choice_answer": "?"})
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    about = {"info": {"year": 2015}, "data_type": "mscoco", "data_subtype": split}
    name = f"v2_OpenEnded_mscoco_{split}_questions.json"
    (root / "annotations" / name).write_text(json.dumps(about | {"questions": questions}))
    answers_name = f"v2_mscoco_{split}_annotations.json"
    (root / "annotations" / answers_name).write_text(json.dumps(about | {"annotations": annotations[::-1]}))
    return Path("annotations") / name


def write_classes(root: Path, split: str, classes: Mapping[str, Sequence[int]]) -> Path:
    """A folder of images for each class, in the layout of data.source=classes_folder."""
    for name, numbers in classes.items():
        (root / split / name).mkdir(parents=True)
        for number in numbers:
            (root / split / name / f"{number:03d}.jpg").write_bytes(jpeg(number))
    return root


def tone(frequency: float, seconds: float = 0.3, rate: int = 16_000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write_sounds(root: Path, split: str, sounds: Mapping[str, np.ndarray | bytes], rate: int = 16_000) -> Path:
    """A folder of sounds, [samples] or [samples, channels], with two captions each; as of data.source=audio_folder."""
    import soundfile

    (root / split).mkdir(parents=True)
    lines = []
    for number, (name, sound) in enumerate(sounds.items()):
        if isinstance(sound, bytes):
            (root / split / name).write_bytes(sound)
        else:
            soundfile.write(root / split / name, sound, rate)
        lines.append(json.dumps({"sound": name, "captions": [f"sound {number} caption {i}" for i in range(2)]}))
    (root / split / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return root


def config_dict(source: str, root: str | Path = "", batch: int = 5, seed: int = 3, **data: Any) -> Config:
    fields = {"source": source, "root": str(root), "size": 32 if source == "scenes" else 16, **data}
    images = {"model": {"reference": ""}}
    sounds = {"model": {"kind": "vision_language"}, "losses": {"captioning": {}}}
    clips = {"model": {"kind": "visual_tokenizer", "widths": (8, 8), "time_strides": (1, 2)}}
    return resolve(
        {
            **(clips if fields.get("frames", 1) > 1 else sounds if "audio_folder" in str(fields) else images),
            "data": fields,
            "seed": seed,
            "train": {"batch": batch, "steps": 1},
            "evaluate": {"batch": batch},
            "text": {"length": 13},
        }
    )


def moving(frames: int, number: int = 0, height: int = 41, width: int = 53) -> np.ndarray:
    """A clip of a smooth background and a bar that is at column 2 * f in frame f, uint8 [f, y, x, 3]."""
    clip = np.repeat(make_image(number, height, width)[None], frames, axis=0)
    for f in range(frames):
        clip[f, :, 2 * f : 2 * f + 2] = (255, 255, 0)
    return clip


def write_clip(path: Path, clip: np.ndarray, frame_rate: float = 8.0, codec: str = "libx264", gop: int = 5) -> Path:
    """A clip as a file, by PyAV or, as GIF, by Pillow; without a suffix, a folder of numbered PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        path.mkdir()
        for i, frame in enumerate(clip):
            Image.fromarray(frame).save(path / f"{i}.png")
        return path
    if path.suffix == ".gif":
        first, *others = map(Image.fromarray, clip)
        times = [int(100 * i / frame_rate) for i in range(len(clip) + 1)]  # in hundredths of a second, as GIF has them
        durations = (10 * np.diff(times)).tolist()
        first.save(path, save_all=True, append_images=others, duration=durations, loop=0)
        return path
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate).limit_denominator(1001))
        stream.height, stream.width = clip.shape[1] // 2 * 2, clip.shape[2] // 2 * 2
        stream.pix_fmt, stream.gop_size = "yuv444p" if codec == "libx264" else "yuv420p", gop
        if codec == "libx264":
            stream.options = {"crf": "4"}
        for frame in clip[:, : stream.height, : stream.width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_clips(root: Path, split: str, clips: Mapping[str, np.ndarray | bytes]) -> Path:
    """A folder of clips with two captions each, in the layout of data.source=clips_folder."""
    (root / split).mkdir(parents=True)
    lines = []
    for number, (name, clip) in enumerate(clips.items()):
        if isinstance(clip, bytes):
            (root / split / name).write_bytes(clip)
        else:
            write_clip(root / split / name, clip)
        lines.append(json.dumps({"clip": name, "captions": [f"clip {number} caption {i}" for i in range(2)]}))
    (root / split / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return root


def prepare_tfds(root: Path, training: range, evaluation: range, shards: int = 3) -> Path:
    """A data set with the name and the features of TFDS's coco_captions; image 5 is broken."""
    import tensorflow_datasets as tfds

    class CocoCaptions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "coco_captions"
        VERSION = tfds.core.Version("1.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2014")]  # noqa: RUF012
        url_infos: dict[str, Any] = {}  # noqa: RUF012  (nothing is downloaded)

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features
            captions = features.Sequence({"text": features.Text(), "id": np.int64})
            thing = {"id": np.int64, "area": np.int64, "bbox": features.BBoxFeature(), "is_crowd": np.bool_}
            objects = features.Sequence({**thing, "label": features.ClassLabel(num_classes=80)})
            names = {"image/filename": features.Text(), "image/id": np.int64}
            image = features.Image(encoding_format="jpeg")
            all_of_them = features.FeaturesDict({"image": image, **names, "captions": captions, "objects": objects})
            return tfds.core.DatasetInfo(builder=self, features=all_of_them)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(training), "val": self._generate_examples(evaluation)}

        def _generate_examples(self, numbers: range) -> Iterator[tuple[int, dict[str, Any]]]:
            for n in numbers:
                captions = [{"text": f"image {n} caption {i}", "id": 10 * n + i} for i in range(5)]
                image = io.BytesIO(b"broken" if n == 5 else jpeg(n))
                names = {"image/filename": f"{n}.jpg", "image/id": n}
                yield n, {"image": image, **names, "captions": captions, "objects": []}

    tfds.disable_progress_bar()
    settings = tfds.download.DownloadConfig(num_shards=shards, try_download_gcs=False)
    CocoCaptions(data_dir=str(root)).download_and_prepare(download_config=settings)
    return root
