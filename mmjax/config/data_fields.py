"""The fields of `data` in a config, and their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmjax import registry
from mmjax.config.schema import setting
from mmjax.types import Feature


@dataclass(frozen=True)
class ScenesConfig:
    """Drawn scenes: images of two things with a caption, or clips of one that moves.

    Attributes:
        examples: how many different training images; evaluation draws from the held-out combinations.
        fully_specified: the caption determines the image; otherwise position and size are left open, as clips leave
            them always.
        questions: images of one, two or three things, with a question and its answer; only two have a caption.
    """

    examples: int = setting(20_000, above=0)
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
    bins: int = setting(128, above=0)


@dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how images are prepared.

    Attributes:
        source: a key of mmjax.data.sources.SOURCES, which says what each is, or "my_package.my_file:NAME" for a
            SourceSpec of your own.
        root: the folder of the data set, DIR, or TFDS's data_dir; a bucket (gs://) works for TFDS.
        train_split, evaluation_split: split names of the source.
        scenes: of scenes, what is drawn.
        audio: of audio_folder, what sounds are made of.
        questions, evaluation_questions: of vqa, the files of questions below root, for training and for evaluation.
        num_answer_classes: of vqa, how many of the most frequent training answers are classes; 0 gives no labels.
        size: side of the images, in pixels; audio has sides of its own.
        frames: frames of a clip; 1 for images. Scenes move where there are several.
        frame_rate: frames a second, as they are read and as they are written.
        resize: short side before the crop, in pixels; 0 takes size * 256 / 224.
        flip: mirror half of the training images.
        evaluation_examples: evaluation examples used, the first ones, of a mixture those of each component; 0 uses
            all.
        max_corrupt_fraction: fraction of the images or clips read so far that may be unreadable; above it the run ends.
            As long as fewer than 100 were read, it is of 100.
        shuffle_buffer: for sources that can only be streamed (TFDS): examples held for shuffling, at most. A resume
            reads up to twice as many before its first batch.
        options: of a source of your own, whatever it needs beside.
        mixture: of a mixture, its components by names of your own. Fields that a component does not set, but for its
            source, are those of the mixture.
    """

    source: str = setting("scenes", registry="source")
    root: str = ""
    train_split: str = "train"
    evaluation_split: str = "validation"
    questions: str = ""
    evaluation_questions: str = ""
    num_answer_classes: int = setting(0, at_least=0)
    size: int = setting(32, above=0)
    frames: int = setting(1, above=0)
    frame_rate: float = setting(8.0, above=0)
    resize: int = 0
    flip: bool = False
    evaluation_examples: int = setting(0, at_least=0)
    max_corrupt_fraction: float = setting(0.1, at_least=0, at_most=1)
    shuffle_buffer: int = setting(4096, above=0)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    options: dict[str, str | int | float | bool] = field(default_factory=dict, hash=False)
    mixture: dict[str, "MixtureComponent"] = field(default_factory=dict, hash=False)

    def split(self, training: bool) -> str:
        """The source's split for training or for evaluation."""
        return self.train_split if training else self.evaluation_split

    @property
    def features(self) -> Mapping[str, Feature]:
        """The named fields of the source's examples, known before it is opened."""
        found: Mapping[str, Feature] = registry.find("source", self.source, "data.source").features(self)
        return found

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of `image`, one example: an image, a clip, or a sound as an image."""
        return self.features["image"].shape


@dataclass(frozen=True)
class MixtureComponent(DataConfig):
    """A component of a mixture: data of its own, and its weight.

    Attributes:
        weight: proportional to the fraction of training examples that are of this component.
    """

    weight: float = setting(1.0, above=0)
