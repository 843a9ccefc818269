"""The fields of a recipe and their defaults."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes: pictures of two objects with a caption.

    Attributes:
        examples: how many different training pictures; evaluation draws from the held-out combinations.
        determined: the caption determines the picture; otherwise position and size are left open.
    """

    examples: int = 20_000
    determined: bool = True


@dataclass(frozen=True)
class Data:
    """Where examples come from and how pictures are prepared.

    Attributes:
        source: "scenes" (drawn here), "coco_folder" (COCO in its official layout), "coco_tfds" (TFDS coco_captions).
        root: the COCO folder, or TFDS's data_dir; a bucket (gs://) works for TFDS.
        train_split, evaluation_split: split names of the source.
        size: side of the pictures, in pixels.
        resize: short side before the crop, in pixels; 0 takes size * 256 / 224.
        flip: mirror half of the training pictures.
        evaluation_examples: use only the first so many evaluation examples; 0 takes all.
        shuffle_buffer: for sources that can only be streamed (TFDS): examples held for shuffling.
    """

    source: Literal["scenes", "coco_folder", "coco_tfds"] = "scenes"
    root: str = ""
    train_split: str = "train"
    evaluation_split: str = "validation"
    size: int = 32
    resize: int = 0
    flip: bool = False
    evaluation_examples: int = 0
    shuffle_buffer: int = 4096
    scenes: Scenes = field(default_factory=Scenes)


@dataclass(frozen=True)
class Text:
    """SentencePiece tokens: the longest text in tokens, and the size of the vocabulary (an upper bound)."""

    length: int = 32
    vocabulary: int = 4096


@dataclass(frozen=True)
class DirectGenerator:
    """The direct generator: text and an optional reference picture in, a picture out.

    Attributes:
        width: model width d, shared by the encoders and the fusion.
        heads: attention heads; must divide width.
        text_layers, vision_layers, fusion_layers: transformer layers of each part.
        reference: build the vision encoder, so that a reference picture can be given.
        decoder_widths: channels of the transposed convolutions; each doubles the side, so the grid of visual tokens
            has size / 2 ** len(decoder_widths) rows.
        dtype: what is computed in; parameters are always float32.
        attention: kernel of the scaled dot-product attention.
        upsampling: form of the transposed convolution, same values: "dilated" is native on TPU and GPU, "matmul" is
            many times faster on a CPU.
    """

    kind: Literal["direct"] = "direct"
    width: int = 128
    heads: int = 4
    text_layers: int = 2
    vision_layers: int = 2
    fusion_layers: int = 4
    reference: bool = True
    decoder_widths: tuple[int, ...] = (64, 32)
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["xla", "cudnn"] = "xla"
    upsampling: Literal["dilated", "matmul"] = "dilated"


@dataclass(frozen=True)
class VisualTokenizer:
    """The visual tokenizer: pictures to grids of codes and back.

    Attributes:
        widths: channels of the encoder, finest first; each halves the side, so the grid has size / 2 ** len(widths)
            rows. The decoder goes the same way back.
        blocks: residual blocks at each width.
        levels: of the finite scalar quantization; their product is the number of codes.
        dtype, upsampling: as in DirectGenerator.
    """

    kind: Literal["visual_tokenizer"] = "visual_tokenizer"
    widths: tuple[int, ...] = (64, 128)
    blocks: int = 1
    levels: tuple[int, ...] = (8, 5, 5, 5)
    dtype: Literal["float32", "bfloat16"] = "float32"
    upsampling: Literal["dilated", "matmul"] = "dilated"


# Models by their `kind`; the first is taken where a recipe names none.
Model = DirectGenerator | VisualTokenizer


@dataclass(frozen=True)
class Objective:
    """Named loss terms with their weights, and how often the reference picture is withheld (0 to 1)."""

    terms: dict[str, float] = field(default_factory=lambda: {"mean_squared_error": 1.0})
    drop_reference: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """Gradient descent.

    Attributes:
        name: "adam", or "adamw" with weight_decay (on matrices and kernels only).
        learning_rate: the peak; kept ("constant") or brought down to 0 ("cosine", "linear")
            after warmup_steps.
        clip: largest global norm of the gradient; 0 does not clip.
        accumulate: the batch is computed in so many parts, one after the other, to save memory.
        ema: decay of the exponential moving average of the parameters that is evaluated and exported; 0 keeps none.
    """

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0


@dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis; one of them may be -1: all that are left."""

    data: int = -1
    fsdp: int = 1
    model: int = 1


@dataclass(frozen=True)
class Train:
    """The training loop.

    Attributes:
        batch: examples a step, over all devices.
        steps, epochs: how long; exactly one of them is set.
        log_every, evaluate_every, checkpoint_every: steps between; of the last two 0 means once an epoch. An evaluation
            better than all before is saved as well.
        keep: newest checkpoints kept, beside the best one.
        best: the figure of the evaluation that decides which checkpoint is best; "-" before it: smaller is better.
        max_bad_steps: stop after so many steps in a row with a loss or gradient that is not finite.
        wandb_project: also log to this Weights & Biases project (needs the wandb extra).
    """

    batch: int = 64
    steps: int = 0
    epochs: int = 0
    log_every: int = 50
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 3
    best: str = "-loss"
    max_bad_steps: int = 10
    wandb_project: str = ""


@dataclass(frozen=True)
class Evaluate:
    """Evaluators by name, examples a batch, and how many samples to draw for the eye."""

    evaluators: tuple[str, ...] = ("losses",)
    batch: int = 64
    samples: int = 16


@dataclass(frozen=True)
class Config:
    """A whole recipe."""

    name: str = ""
    seed: int = 0
    data: Data = field(default_factory=Data)
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=DirectGenerator)
    objective: Objective = field(default_factory=Objective)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
