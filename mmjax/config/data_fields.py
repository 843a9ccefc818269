"""Config fields of `data`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmjax import registry
from mmjax.config.schema import setting
from mmjax.types import Feature


@dataclass(frozen=True)
class ScenesConfig:
    """Config of synthetic scenes: captioned images of two objects, or clips of a moving one.

    Attributes:
        examples: number of training images; evaluation uses held-out combinations.
        fully_specified: the caption determines the image; otherwise, and always in clips, position and size vary.
        questions: images of one to three objects, with a question and its answer; only those of two have a caption.
    """

    examples: int = setting(20_000, above=0, at_most=10**9)
    fully_specified: bool = True
    questions: bool = False


@dataclass(frozen=True)
class AudioConfig:
    """Config of audio: log-mel spectrograms, images with a row per mel bin and a column per 10 ms.

    Attributes:
        rate: sample rate in Hz, to which sounds are resampled.
        seconds: duration; longer sounds are cropped, shorter ones padded.
        bins: mel bins, the rows of the image.
    """

    rate: int = 16_000
    seconds: float = 10.0
    bins: int = setting(128, above=0, at_most=8_192)


@dataclass(frozen=True)
class EmojiConfig:
    """Config of emoji: illustrations of OpenMoji with their names as captions.

    Attributes:
        languages: of the captions, such as ("en", "zh"); training takes one at random, evaluation the first.
        background: color, "#rrggbb", or "random": another one each time in training, white in evaluation.
    """

    languages: tuple[str, ...] = ("en",)
    background: str = "#ffffff"


@dataclass(frozen=True)
class DataConfig:
    """Config of the data source and the preprocessing of images.

    Attributes:
        source: a key of mmjax.data.SOURCES, or "my_package.my_file:NAME" for a SourceSpec of your own.
        root: the folder of the data set, DIR, or TFDS's data_dir; a bucket (gs://) works for TFDS.
        train_split, evaluation_split: split names of the source.
        scenes: for scenes.
        audio: for audio_folder.
        emoji: for emoji.
        questions, evaluation_questions: for vqa: question files below root, for training and for evaluation.
        num_answer_classes: for vqa: number of the most frequent training answers that are classes; 0: no labels.
        size: side of the images, in pixels; not for audio.
        frames: frames of a clip; 1 for images.
        frame_rate: frames per second of clips that are read and written.
        resize: short side before the crop, in pixels; 0: size * 256 / 224.
        flip: flip half of the training images horizontally.
        evaluation_examples: number of evaluation examples, of each component of a mixture; 0: all.
        max_corrupt_fraction: fraction of unreadable images or clips above which the run ends; until 100 were read, it
            is a fraction of 100.
        shuffle_buffer: for streamed sources (TFDS): examples held for shuffling, at most. Resuming reads up to twice
            as many before its first batch.
        options: further settings of a source of your own.
        mixture: for mixture: its components by name. They inherit the fields that they do not set, except the source.
    """

    source: str = setting("scenes", registry="source")
    root: str = ""
    train_split: str = "train"
    evaluation_split: str = "validation"
    questions: str = ""
    evaluation_questions: str = ""
    num_answer_classes: int = setting(0, at_least=0)
    size: int = setting(32, above=0, at_most=8_192)
    frames: int = setting(1, above=0, at_most=10_000)
    frame_rate: float = setting(8.0, above=0)
    resize: int = setting(0, at_least=0, at_most=16_384)
    flip: bool = False
    evaluation_examples: int = setting(0, at_least=0)
    max_corrupt_fraction: float = setting(0.1, at_least=0, at_most=1)
    shuffle_buffer: int = setting(4096, above=0)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    emoji: EmojiConfig = field(default_factory=EmojiConfig)
    options: dict[str, str | int | float | bool] = field(default_factory=dict, hash=False)
    mixture: dict[str, "MixtureComponent"] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "resize", self.resize or round(self.size * 256 / 224))

    def split(self, training: bool) -> str:
        """The split for training or for evaluation."""
        return self.train_split if training else self.evaluation_split

    @property
    def features(self) -> Mapping[str, Feature]:
        """The features of the source, without opening it."""
        features: Mapping[str, Feature] = registry.find("source", self.source, "data.source").features(self)
        return features

    @property
    def attributions(self) -> tuple[str, ...]:
        """Whom a model trained on the data must name, each once."""
        return attributions((self.source, *(part.source for part in self.mixture.values())))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one example's `image`: an image, clip or spectrogram."""
        return self.features["image"].shape


@dataclass(frozen=True)
class MixtureComponent(DataConfig):
    """Config of a component of a mixture.

    Attributes:
        weight: relative fraction of the training examples.
    """

    weight: float = setting(1.0, above=0)


def attributions(sources: Iterable[str]) -> tuple[str, ...]:
    """Whom a model trained on data of these sources must name, each once."""
    found = (registry.find("source", name, "data.source").attribution for name in sources)
    return tuple(dict.fromkeys(filter(None, found)))
