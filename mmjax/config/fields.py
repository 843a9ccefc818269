"""The fields of a config and their defaults; those of `data` and `model` are in data_fields.py and model_fields.py."""

from dataclasses import dataclass, field
from typing import Literal

from mmjax.config.data_fields import DataConfig
from mmjax.config.model_fields import DirectGeneratorConfig, ModelConfig


@dataclass(frozen=True)
class TextConfig:
    """SentencePiece tokens: the longest text in tokens, and the size of the vocabulary (an upper bound)."""

    length: int = 32
    vocabulary: int = 4096


@dataclass(frozen=True)
class TextEncoderConfig:
    """A text encoder that was trained before and is taken as it is; `tokens.text_encoder` names it and fills this in.

    Attributes:
        vocabulary: number of token ids.
        width, layers, heads: of the transformer.
        dtype: as in DirectGenerator.
    """

    vocabulary: int = 4096
    width: int = 512
    layers: int = 4
    heads: int = 8
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class ObjectiveConfig:
    """Named loss terms with their weights, and what is hidden from the model in training.

    Attributes:
        terms: weights by name; see mmjax/losses.
        reference_dropout, text_dropout: how often the reference image, and the text, is withheld (0 to 1); a generator can
            only be guided if its text was dropped now and then.
        mask_schedule: of masked visual modeling: how the masked share follows from a uniform number.
        label_smoothing, unmasked_weight: of masked visual modeling; the second is the weight of tokens that are seen.
        mlm_mask_ratio: share of the text tokens hidden by masked language modeling.
        mim_mask_ratio: share of the patches hidden by masked patch modeling.
        code_noise_prob: for visual tokenizers: share of the codes that are replaced by others before they are decoded, so
            that the decoder learns to draw something whole from codes that do not quite agree.
    """

    terms: dict[str, float] = field(default_factory=lambda: {"mean_squared_error": 1.0})
    reference_dropout: float = 0.0
    text_dropout: float = 0.0
    mask_schedule: Literal["cosine", "arccos"] = "cosine"
    label_smoothing: float = 0.1
    unmasked_weight: float = 0.1
    mlm_mask_ratio: float = 0.15
    mim_mask_ratio: float = 0.6
    code_noise_prob: float = 0.0


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The second player of adversarial training, for objectives with the term "adversarial" or "feature_matching".

    Attributes:
        loss: "non_saturating" (Goodfellow et al. 2014) or "hinge" (Lim and Ye 2017).
        widths: channels of its convolutions, each halving the sides; it judges patches.
        regularizer, regularizer_weight: "r1" (Mescheder et al. 2018), "lecam" (Tseng et al. 2021) or "none".
        learning_rate: of Adam with b1, b2.
        train_from: the step from which it is trained.
        start: the step from which the generator's adversarial terms count.
    """

    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    widths: tuple[int, ...] = (64, 128, 256)
    regularizer: Literal["r1", "lecam", "none"] = "lecam"
    regularizer_weight: float = 0.01
    learning_rate: float = 1e-4
    b1: float = 0.0
    b2: float = 0.99
    train_from: int = 0
    start: int = 0


@dataclass(frozen=True)
class PerceptualConfig:
    """Weights for the term "perceptual" (LPIPS, Zhang et al. 2018), which mmjax does not bring.

    Attributes:
        weights: a safetensors file with the network, VGG16 or AlexNet, and the linear layers, as mmjax/models/lpips.py
            names them; "": the term becomes feature matching on the discriminator.
        sha256: the file's hash, checked before use; "" does not check.
    """

    weights: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class TokensConfig:
    """Where a masked generator's visual tokens come from.

    Attributes:
        tokenizer: workdir or model folder of a trained visual tokenizer; "": `tokenizer`, the config's own, is trained
            first, in WORKDIR/tokenizer.
        reference: the same for the tokenizer of the reference images, the config's own `reference`. A model that was
            trained with a visual tokenizer stands for that tokenizer.
        text_encoder: workdir or model folder of a trained model whose text encoder, with its text tokenizer, is taken
            as it is; "": the generator trains its own.
        cache: folder of the encoded data set; "" takes WORKDIR/tokens.
        num_augmentations: how many crops and flips of each training image are encoded.
    """

    tokenizer: str = ""
    reference: str = ""
    text_encoder: str = ""
    cache: str = ""
    num_augmentations: int = 1


@dataclass(frozen=True)
class SamplingConfig:
    """How a masked generator draws, where nothing else is asked for.

    Attributes:
        steps: forward passes; each settles some of the tokens.
        order: "confidence" settles the surest first (Chang et al. 2022), "halton" spreads them evenly over the grid
            (Besnier et al. 2025).
        guidance: how closely to follow the text: 0 ignores it, 1 samples as trained, more exaggerates it.
        guidance_schedule: "linear" raises guidance over the steps from 1, "constant" keeps it.
        temperature: of the tokens drawn.
        confidence_temperature: of the noise on the order by confidence, which falls to 0 over the steps.
        top_k: draw only from so many of the likeliest codes; 0: from all.
        refinement_steps: further forward passes, each of which draws a block of the tokens anew given all others; small models
            draw truer shapes with them.
        refinement_temperature: of the tokens that are drawn anew.
    """

    steps: int = 12
    order: Literal["confidence", "halton"] = "confidence"
    guidance: float = 3.0
    guidance_schedule: Literal["linear", "constant"] = "linear"
    temperature: float = 1.0
    confidence_temperature: float = 4.5
    top_k: int = 0
    refinement_steps: int = 0
    refinement_temperature: float = 1.0


@dataclass(frozen=True)
class TextDecodingConfig:
    """How captions and answers are written, where nothing else is asked for.

    Attributes:
        beams: texts kept at a time by beam search; 1 takes the likeliest token at each place.
        length_penalty: of beam search; larger ones favor longer texts.
        top_p: above 0: draw from the likeliest tokens that together have this probability, 1 from all.
        temperature: of what is drawn.
    """

    beams: int = 1
    length_penalty: float = 0.6
    top_p: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class OptimizerConfig:
    """Gradient descent.

    Attributes:
        name: "adam", or "adamw" with weight_decay (on matrices and kernels only), or "muon" (Jordan et al. 2024) on
            kernels with Adam on all else, which learns more a step and costs more of it; weight_decay on kernels only.
        learning_rate: the peak; kept ("constant") or brought down to 0 ("cosine", "linear")
            after warmup_steps. Muon takes several times that of Adam.
        b1, b2: of Adam.
        grad_clip_norm: largest global norm of the gradient; 0 does not clip.
        grad_accum_steps: the batch is computed in so many parts, one after the other, to save memory.
        ema_decay: decay of the exponential moving average of the parameters that is evaluated and exported; 0 keeps none.
    """

    name: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    grad_accum_steps: int = 1
    ema_decay: float = 0.0


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of data, fsdp and model may be -1: all that are left.

    Attributes:
        data: the batch is split over them; each holds all parameters.
        fsdp: the batch and the parameters are split over them.
        model: the layers themselves, their heads and hidden units, are split over them.
        slice: slices of a TPU pod, between which is the data center's network, where the batch is split as over data;
            0: as many as there are.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1
    slice: int = 0


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        batch: examples a step, over all devices.
        steps, epochs: how long; exactly one of them is set.
        log_every, evaluate_every, checkpoint_every: steps between; of the last two 0 means once an epoch. An evaluation
            better than all before is saved as well.
        checkpoints: folder or bucket (gs://BUCKET/FOLDER) of the checkpoints; "" takes WORKDIR/checkpoints.
        max_to_keep: newest checkpoints kept, beside the best one.
        best_metric: the metric of the evaluation that decides which checkpoint is best; "-" before it: smaller is better.
        init_from: workdir or model folder whose parameters training starts from, such as a generator of another size.
        max_nonfinite_steps: stop after so many steps in a row with a loss or gradient that is not finite.
        skip_grad_spikes: also skip steps whose gradient has more than so many times its usual norm; 0 skips none.
        wandb_project: also log to this Weights & Biases project (needs the wandb extra).
    """

    batch: int = 64
    steps: int = 0
    epochs: int = 0
    log_every: int = 50
    evaluate_every: int = 0
    checkpoint_every: int = 0
    checkpoints: str = ""
    max_to_keep: int = 3
    best_metric: str = "-loss"
    init_from: str = ""
    max_nonfinite_steps: int = 10
    skip_grad_spikes: float = 0.0
    wandb_project: str = ""


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluators by name, examples a batch, and how many samples to draw for the eye.

    Attributes:
        classes: for the evaluator zero_shot, the names of the classes in the order of their labels.
        prompts: what it makes of a name, {}; a class is the mean of them.
    """

    evaluators: tuple[str, ...] = ("losses",)
    batch: int = 64
    samples: int = 16
    classes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ("a photo of a {}",)


@dataclass(frozen=True)
class Config:
    """A whole config.

    `tokenizer` is the config of a masked generator's visual tokenizer, `reference` that of the visual tokenizer of the
    reference images it looks at: the images themselves, brought to its data.size. `pretraining` is a config for the
    same model that is trained first, in WORKDIR/pretraining, such as one on images before one on clips; training
    starts from its parameters.
    """

    name: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=DirectGeneratorConfig)
    tokenizer: "Config | None" = None
    reference: "Config | None" = None
    pretraining: "Config | None" = None
    text_encoder: TextEncoderConfig | None = None
    tokens: TokensConfig = field(default_factory=TokensConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    writing: TextDecodingConfig = field(default_factory=TextDecodingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    @property
    def adversarial_terms(self) -> tuple[str, ...]:
        """The terms of the objective that need a discriminator."""
        without = () if self.perceptual.weights else ("perceptual",)
        return tuple(name for name in self.objective.terms if name in ("adversarial", "feature_matching", *without))
