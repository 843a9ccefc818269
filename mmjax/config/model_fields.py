"""The fields of `model` in a config, for each kind of model, and their defaults."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DirectGeneratorConfig:
    """The direct generator: text and an optional reference image in, an image out.

    Attributes:
        width: model width d, shared by the encoders and the fusion.
        heads: attention heads; must divide width.
        text_layers, vision_layers, fusion_layers: transformer layers of each part.
        reference: build the vision encoder, so that a reference image can be given.
        fusion: how the visual tokens learn of the text: "cross_attention" in every layer, "joint" attention of all
            tokens to all, or one vector of the whole text, with each visual token through perceptrons ("mlp") or
            multiplied ("bilinear").
        decoder_widths: channels of the transposed convolutions; each doubles the side, so the grid of visual tokens
            has size / 2 ** len(decoder_widths) rows.
        dtype: what is computed in; parameters are always float32.
        attention: kernel of the scaled dot-product attention; "cudnn" is for NVIDIA GPUs.
        convolution: form of the convolutions, same values: "native" for TPUs and GPUs, "matmul" is many times faster
            on a CPU.
    """

    kind: Literal["direct"] = "direct"
    width: int = 128
    heads: int = 4
    text_layers: int = 2
    vision_layers: int = 2
    fusion_layers: int = 4
    reference: bool = True
    fusion: Literal["cross_attention", "joint", "mlp", "bilinear"] = "cross_attention"
    decoder_widths: tuple[int, ...] = (64, 32)
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["xla", "cudnn"] = "xla"
    convolution: Literal["native", "matmul"] = "native"


@dataclass(frozen=True)
class VisualTokenizerConfig:
    """The visual tokenizer: images or clips to grids of codes and back.

    Attributes:
        widths: channels of the encoder, finest first; each halves the side, so the grid has size / 2 ** len(widths)
            rows. The decoder goes the same way back.
        time_strides: for clips, how many frames become one at each width, 1 or 2. The first frame is coded on its own,
            and no code sees a later frame than its own; an image is a clip of one frame. Empty: images only.
        blocks: residual blocks at each width.
        levels: of the finite scalar quantization; their product is the number of codes.
        dtype, convolution: as in DirectGenerator.
    """

    kind: Literal["visual_tokenizer"] = "visual_tokenizer"
    widths: tuple[int, ...] = (64, 128)
    time_strides: tuple[int, ...] = ()
    blocks: int = 1
    levels: tuple[int, ...] = (8, 5, 5, 5)
    dtype: Literal["float32", "bfloat16"] = "float32"
    convolution: Literal["native", "matmul"] = "native"


@dataclass(frozen=True)
class MaskedGeneratorConfig:
    """The masked generator: a transformer over visual tokens that cross-attends to the text and, where the config has a
    `reference`, to the visual tokens of a reference image.

    Attributes:
        width, heads, layers: of the transformer over the visual tokens.
        text_layers: layers of the text encoder, of the same width and heads; one that is frozen has its own.
        local_blocks: residual blocks of convolutions over the rows and columns of visual tokens, each frame for itself,
            before the transformer. Small models learn sooner from them which tokens are neighbors.
        convolution: form of the convolutions, as in DirectGenerator.
        remat: compute each layer anew in the backward pass, to save memory.
        remat_policy: what of each layer is kept for it nevertheless: "nothing", "attention" (what attention gives, so
            that it is not computed again) or "dots" (all matrix products but those inside of attention).
        unroll: layers compiled one after the other in each turn of the loop over the layers: 1 compiles fastest, all of
            them run faster on a CPU.
        dtype, attention: as in DirectGenerator; "splash" is for TPUs, and never holds the weights of all pairs of
            tokens. It takes multiples of 128 tokens that all see each other; the rest is computed by xla.
    """

    kind: Literal["masked_generator"] = "masked_generator"
    width: int = 512
    heads: int = 8
    layers: int = 12
    text_layers: int = 4
    local_blocks: int = 0
    convolution: Literal["native", "matmul"] = "native"
    remat: bool = False
    remat_policy: Literal["nothing", "attention", "dots"] = "nothing"
    unroll: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["xla", "cudnn", "splash"] = "xla"


@dataclass(frozen=True)
class VisionLanguageConfig:
    """Images and texts in one model. What the terms of the objective train is built, and nothing else.

    Attributes:
        encoder: of the images: "vit", a vision transformer, which for clips (data.frames) attends over space and time
            and takes sounds (data.source=audio_folder) as well, or "resnet", ResNet-50, for images.
        patch, time: sides of the patches in pixels, and for clips their frames.
        registers: tokens that the vision encoder has beside those of the patches (Darcet et al. 2023).
        stem: of a vision transformer for images: channels of convolutions that halve the sides, before the patches.
            Small models learn much sooner with as many as make a patch.
        width, heads, layers: of the vision encoder; the others are as wide.
        text_layers, fusion_layers, decoder_layers: of the text encoder, of the fusion and of the text decoder.
        fusion: how visual tokens take up a text, for matching, answers and classes of questions: "cross_attention",
            "joint" (self-attention over both), "mlp" or "bilinear".
        embedding: width of the space that images and texts share.
        classify: what the classes are of: "image", "text" or, of both, "question".
        classes: how many there are.
        convolution: form of the convolutions, as in DirectGenerator.
        remat, remat_policy, unroll: as in MaskedGenerator.
        dtype, attention: as in DirectGenerator.
    """

    kind: Literal["vision_language"] = "vision_language"
    encoder: Literal["vit", "resnet"] = "vit"
    patch: int = 16
    time: int = 2
    registers: int = 0
    stem: tuple[int, ...] = ()
    width: int = 512
    heads: int = 8
    layers: int = 12
    text_layers: int = 6
    fusion_layers: int = 3
    decoder_layers: int = 6
    fusion: Literal["cross_attention", "joint", "mlp", "bilinear"] = "cross_attention"
    embedding: int = 256
    classify: Literal["image", "text", "question"] = "image"
    classes: int = 0
    convolution: Literal["native", "matmul"] = "native"
    remat: bool = False
    remat_policy: Literal["nothing", "attention", "dots"] = "nothing"
    unroll: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["xla", "cudnn"] = "xla"


# Models by their `kind`; the first is taken where a config names none.
ModelConfig = DirectGeneratorConfig | VisualTokenizerConfig | MaskedGeneratorConfig | VisionLanguageConfig
