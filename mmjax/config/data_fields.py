"""The fields of `data` in a config, and their defaults."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ScenesConfig:
    """Drawn scenes: images of two things with a caption, or clips of one that moves.

    Attributes:
        examples: how many different training images; evaluation draws from the held-out combinations.
        fully_specified: the caption determines the image; otherwise position and size are left open, as clips leave
            them always.
        questions: images of one, two or three things, with a question and its answer; only two have a caption.
    """

    examples: int = 20_000
    fully_specified: bool = True
    questions: bool = False


@dataclass(frozen=True)
class AudioConfig:
    """Sounds as images of one channel: log-mel features, a row a mel bin, a column 10 ms.

    Attributes:
        rate: samples a second that sounds are brought to.
        seconds: how much of a sound is taken; a shorter one is followed by silence.
        bins: mel bins, the rows of the image.
    """

    rate: int = 16_000
    seconds: float = 10.0
    bins: int = 128

    @property
    def frames(self) -> int:
        """The columns of the image."""
        return round(100 * self.seconds)


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how images are prepared.

    Attributes:
        source: "scenes" (drawn here), "coco_folder" (COCO in its official layout), "coco_packed" (what mmjax prepare
            --to=DIR made of it), "coco_tfds" (TFDS coco_captions), "clips_folder" (clips with captions: mp4, gif or
            folders of frames), "vqa" (questions about COCO's images: VQAv2, A-OKVQA), "classes_folder" (a folder of
            images for each class), "audio_folder" (sounds with captions), "mixture" (several of these, see `mixture`).
        root: the folder of the data set, DIR, or TFDS's data_dir; a bucket (gs://) works for TFDS.
        train_split, evaluation_split: split names of the source.
        audio: of audio_folder, what sounds are made of.
        questions, evaluation_questions: of vqa, the files of questions below root, for training and for evaluation.
        num_answer_classes: of vqa, so many of the most frequent training answers are classes; 0 gives no labels.
        size: side of the images, in pixels; audio has sides of its own.
        frames: frames of a clip; 1 for images. Scenes move where there are several.
        frame_rate: frames a second, as they are read and as they are written.
        resize: short side before the crop, in pixels; 0 takes size * 256 / 224.
        flip: mirror half of the training images.
        evaluation_examples: use only the first so many evaluation examples, of a mixture those of each part; 0 takes
            all.
        max_corrupt_fraction: share of the images or clips read so far that may be unreadable; more end the run. As long as
            fewer than 100 were read, it is of 100.
        shuffle_buffer: for sources that can only be streamed (TFDS): examples held for shuffling, at most. A resume
            reads up to twice as many before its first batch.
        mixture: of a mixture, by names of your own. Fields that a part does not set, but for its source, are those of the
            mixture.
    """

    source: Literal[
        "scenes",
        "coco_folder",
        "coco_packed",
        "coco_tfds",
        "clips_folder",
        "vqa",
        "classes_folder",
        "audio_folder",
        "mixture",
    ] = "scenes"
    root: str = ""
    train_split: str = "train"
    evaluation_split: str = "validation"
    questions: str = ""
    evaluation_questions: str = ""
    num_answer_classes: int = 0
    size: int = 32
    frames: int = 1
    frame_rate: float = 8.0
    resize: int = 0
    flip: bool = False
    evaluation_examples: int = 0
    max_corrupt_fraction: float = 0.1
    shuffle_buffer: int = 4096
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    mixture: dict[str, "MixtureComponent"] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class MixtureComponent(DataConfig):
    """A part of a mixture: data of its own, and its weight.

    Attributes:
        weight: how many training examples are of this part, beside the weights of the others.
    """

    weight: float = 1.0
