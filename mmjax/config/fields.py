"""Config fields, except those of `data` (data_fields.py) and of single models, losses and optimizers."""

from dataclasses import dataclass, field
from typing import Literal

from mmjax.config.data_fields import DataConfig
from mmjax.config.pretrained_fields import VISION_ENCODER, PretrainedConfig
from mmjax.config.schema import MAX_BATCH, MAX_STEPS, setting


@dataclass(frozen=True)
class TextConfig:
    """Config of the text tokens (SentencePiece).

    Attributes:
        length: maximal text length in tokens; longer texts are truncated.
        vocabulary: maximal number of token ids.
    """

    length: int = setting(32, above=0, at_most=8_192)
    vocabulary: int = setting(4096, at_least=300, at_most=4_000_000)  # the bytes and some pieces


@dataclass(frozen=True)
class ModelConfig:
    """Base config of models; each kind adds fields in its file in mmjax/models.

    Attributes:
        kind: a name in mmjax.models.MODELS, or a dotted path to a ModelSpec.
    """

    kind: str = ""


@dataclass(frozen=True)
class LossConfig:
    """Base config of loss terms; some add fields in their files in mmjax/losses.

    Attributes:
        kind: a name in mmjax.losses.LOSSES, or a dotted path to a LossSpec; by default the name of the term.
        weight: of the term in the training loss.
    """

    kind: str = ""
    weight: float = setting(1.0, above=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """Base config of optimizers; each adds fields in mmjax/train/optimizer.py.

    Attributes:
        kind: a name in mmjax.train.optimizer.OPTIMIZERS, or a dotted path to an OptimizerSpec.
        learning_rate: peak learning rate.
        schedule: after the warm-up, "constant" or a decay to 0, "cosine" or "linear".
        warmup_steps: steps of linear warm-up.
        grad_clip_norm: maximal global norm of the gradient; 0: no clipping.
        grad_accum_steps: microbatches per batch, computed sequentially to save memory.
        ema_decay: of the moving average of the parameters, which is evaluated and exported; 0: no average.
    """

    kind: str = ""
    learning_rate: float = setting(1e-3, above=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = setting(0, at_least=0)
    grad_clip_norm: float = setting(0.0, at_least=0)
    grad_accum_steps: int = setting(1, above=0)
    ema_decay: float = setting(0.0, at_least=0, below=1)


@dataclass(frozen=True)
class ComputeConfig:
    """Config of the computation, which changes results by rounding only.

    Attributes:
        dtype: of activations and matrix products; parameters are always float32. "auto": bfloat16 on TPUs and GPUs,
            float32 on CPUs.
        attention: attention kernel: "splash" for TPUs, "cudnn" for NVIDIA GPUs; "auto": splash on TPUs, else xla, which
            also computes what a kernel does not support.
        convolution: "native", or "matmul", with which transposed convolutions and those of clips are many times faster
            on CPUs; "auto" chooses by platform.
        dense: "native", or "flat", a product of two matrices, which is faster on CPUs; "auto" chooses by platform.
        remat: recompute layers in the backward pass, to save memory.
        remat_policy: what remat keeps: "nothing", "attention" (its outputs) or "dots" (matrix products outside of
            attention).
        unroll: layers per iteration of the scan over layers; 0: one, but all on CPUs, where that is faster.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    convolution: Literal["auto", "native", "matmul"] = "auto"
    dense: Literal["auto", "native", "flat"] = "auto"
    remat: bool = False
    remat_policy: Literal["nothing", "attention", "dots"] = "nothing"
    unroll: int = setting(0, at_least=0)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Config of the discriminator, for the losses "adversarial" and "feature_matching".

    Attributes:
        loss: "non_saturating" (Goodfellow et al. 2014) or "hinge" (Lim and Ye 2017).
        widths: channels of its convolutions of stride 2.
        regularizer, regularizer_weight: "r1" (Mescheder et al. 2018), "lecam" (Tseng et al. 2021) or "none".
        learning_rate, b1, b2: of Adam.
        train_from: first step that trains it.
        start: first step with the generator's adversarial terms.
    """

    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    widths: tuple[int, ...] = setting((64, 128, 256), above=0, at_most=16_384)
    regularizer: Literal["r1", "lecam", "none"] = "lecam"
    regularizer_weight: float = setting(0.01, at_least=0)
    learning_rate: float = setting(1e-4, above=0)
    b1: float = setting(0.0, at_least=0, below=1)
    b2: float = setting(0.99, at_least=0, below=1)
    train_from: int = setting(0, at_least=0)
    start: int = setting(0, at_least=0)


@dataclass(frozen=True)
class PerceptualConfig:
    """Config of the weights for the loss "perceptual" (LPIPS, Zhang et al. 2018), which mmjax does not include.

    Attributes:
        weights: safetensors file with the network, VGG16 or AlexNet, and the linear layers; see mmjax/models/lpips.py.
        sha256: of the file, checked before use; "": unchecked.
    """

    weights: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class ComponentConfig:
    """Config of a frozen component of a model; a path or a config alone stands for it.

    Attributes:
        path: workdir or model folder of a trained one, or a folder in Hugging Face's layout, copied into the workdir;
            "": `config` is trained first, in WORKDIR/NAME.
        config: its config; with a path, read from there.
        pretrained: of a folder in Hugging Face's layout, in place of a config; read from there.
    """

    path: str = ""
    config: "Config | None" = None
    pretrained: PretrainedConfig | None = None


@dataclass(frozen=True)
class TokensConfig:
    """Config of the cache of visual tokens, for models with a visual tokenizer.

    Attributes:
        cache: its folder; "": WORKDIR/tokens.
        num_augmentations: encoded crops and flips of each training image.
    """

    cache: str = ""
    num_augmentations: int = setting(1, above=0, at_most=10_000)


@dataclass(frozen=True)
class SamplingConfig:
    """Default sampling of masked generators.

    Attributes:
        kind: a name in mmjax.sample.SAMPLERS, or a dotted path to a SamplerSpec.
        steps: forward passes; each unmasks some of the tokens.
        order: of unmasking: "confidence" (Chang et al. 2022), or "halton", evenly over the grid (Besnier et al. 2025).
        guidance: scale of classifier-free guidance: 0 ignores the text, 1 samples as trained.
        guidance_schedule: "linear" increases guidance over the steps from 1, "constant" keeps it.
        temperature: of sampling tokens.
        confidence_temperature: of the noise on the order by confidence, annealed to 0.
        top_k: sample from the most likely codes only; 0: from all.
        refinement_steps: further forward passes (blocked Gibbs sampling), each of which resamples a block of tokens
            given all others; they improve shapes of small models.
        refinement_temperature: of resampling tokens.
    """

    kind: str = ""
    steps: int = setting(12, above=0, at_most=10_000)
    order: Literal["confidence", "halton"] = "confidence"
    guidance: float = setting(3.0, at_least=0, at_most=1_000)
    guidance_schedule: Literal["linear", "constant"] = "linear"
    temperature: float = setting(1.0, at_least=1e-6, at_most=1_000)
    confidence_temperature: float = setting(4.5, at_least=0, at_most=1_000)
    top_k: int = setting(0, at_least=0)
    refinement_steps: int = setting(0, at_least=0, at_most=10_000)
    refinement_temperature: float = setting(1.0, at_least=1e-6, at_most=1_000)


@dataclass(frozen=True)
class TextDecodingConfig:
    """Default decoding of captions and answers.

    Attributes:
        beams: width of beam search; 1: greedy.
        length_penalty: of beam search; larger ones favor longer texts.
        top_p: nucleus sampling from the most likely tokens with this total probability; 0: none.
        temperature: of nucleus sampling.
    """

    beams: int = setting(1, above=0, at_most=1_000)
    length_penalty: float = setting(0.6, at_least=0, at_most=1_000)
    top_p: float = setting(0.0, at_least=0, at_most=1)
    temperature: float = setting(1.0, at_least=1e-6, at_most=1_000)


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; one of data, fsdp and model may be -1: all remaining ones.

    Attributes:
        data: shards the batch and replicates the parameters.
        fsdp: shards the batch and the parameters.
        model: shards heads and hidden units (tensor parallelism).
        slice: slices of a TPU pod, connected by the data center network; shards the batch like data. 0: all slices.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1
    slice: int = setting(0, at_least=0)


@dataclass(frozen=True)
class TrainConfig:
    """Config of the training loop.

    Attributes:
        batch: global batch size.
        steps, epochs: duration; set exactly one.
        log_every, evaluate_every, checkpoint_every: intervals in steps; for the last two 0: once per epoch. A new best
            evaluation is also saved.
        checkpoints: folder or bucket (gs://BUCKET/FOLDER) of the checkpoints; "": WORKDIR/checkpoints.
        max_to_keep: number of newest checkpoints to keep, besides the best one.
        best_metric: evaluation metric of the best checkpoint; a leading "-": smaller is better.
        init_from: workdir or model folder to initialize from: its text tokenizer, and parameters of equal names. All
            others are newly initialized.
        init_rename: prefixes of names to prefixes of names there, as in {"vision": "encoder"}; "-": newly initialized.
        max_nonfinite_steps: stop after so many consecutive steps with a non-finite loss or gradient.
        skip_grad_spikes: skip steps whose gradient norm exceeds its average by this factor; 0: skip none.
        wandb_project: also log to this Weights & Biases project (needs the wandb extra).
    """

    batch: int = setting(64, above=0, at_most=MAX_BATCH)
    steps: int = setting(0, at_least=0, at_most=MAX_STEPS)
    epochs: int = setting(0, at_least=0, at_most=MAX_STEPS)
    log_every: int = setting(50, above=0)
    evaluate_every: int = setting(0, at_least=0)
    checkpoint_every: int = setting(0, at_least=0)
    checkpoints: str = ""
    max_to_keep: int = setting(3, above=0)
    best_metric: str = "-loss"
    init_from: str = ""
    init_rename: dict[str, str] = field(default_factory=dict)
    max_nonfinite_steps: int = setting(10, above=0)
    skip_grad_spikes: float = setting(0.0, at_least=0)
    wandb_project: str = ""


@dataclass(frozen=True)
class LoraConfig:
    """Config of LoRA: training adds low-rank matrices to some kernels of the model that it starts from, frozen.

    Attributes:
        rank: of the added matrices; 0: none, all parameters are trained.
        alpha: the sum is kernel + alpha / rank * a b; 0: rank.
        kernels: regular expressions of whole names of kernels, where **/ stands for any beginning.
    """

    rank: int = setting(0, at_least=0, at_most=16_384)
    alpha: float = setting(0.0, at_least=0)
    kernels: tuple[str, ...] = ("**/attention/(q|k|v|out)/kernel",)


@dataclass(frozen=True)
class EvaluateConfig:
    """Config of the evaluation.

    Attributes:
        evaluators: keys of mmjax.evaluate.EVALUATORS, or dotted paths to EvaluatorSpecs.
        batch: global batch size.
        samples: number of samples in the report; 0: none.
        classes: for zero_shot: names of the classes in the order of their labels.
        prompts: for zero_shot: templates of a class name, {}; their embeddings are averaged.
    """

    evaluators: tuple[str, ...] = setting(("losses",), registry="evaluator")
    batch: int = setting(64, above=0, at_most=MAX_BATCH)
    samples: int = setting(16, at_least=0)
    classes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ("a photo of a {}",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Config of an experiment.

    Attributes:
        name: of the experiment, in logs and reports; by default that of the config file.
        seed: of parameters, data order, crops, masks and samples.
        data: data source and preprocessing.
        text: text tokens.
        model: kind of model and its sizes.
        components: frozen components of the model by name: the folder of a trained one, or a config to train first.
        pretraining: config of the same model to train first, in WORKDIR/pretraining, and to start from.
        tokens: cache of visual tokens.
        sampling: default sampling of masked generators.
        text_decoding: default decoding of captions and answers.
        losses: terms of the training loss by name.
        discriminator: of adversarial training.
        perceptual: weights for the loss "perceptual".
        optimizer: optimizer and learning rate schedule.
        lora: low-rank matrices to train instead of the model.
        compute: numerics and kernels.
        mesh: devices along each mesh axis.
        train: training loop.
        evaluate: evaluation.
    """

    name: str = ""
    seed: int = setting(0, at_least=0, below=2**32)  # all the bits that random keys take
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = setting(registry="model", kind="direct_generator")
    components: dict[str, ComponentConfig] = field(default_factory=dict)
    pretraining: "Config | None" = None
    tokens: TokensConfig = field(default_factory=TokensConfig)
    sampling: SamplingConfig = setting(registry="sampler", kind="maskgit")
    text_decoding: TextDecodingConfig = field(default_factory=TextDecodingConfig)
    losses: dict[str, LossConfig] = setting(factory=dict, registry="loss", initial={"mean_squared_error": {}})
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    optimizer: OptimizerConfig = setting(registry="optimizer", kind="adam")
    lora: LoraConfig = field(default_factory=LoraConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def separate_components(self) -> dict[str, ComponentConfig]:
        """The components whose parameters are not among those of the model."""
        return {name: each for name, each in self.components.items() if name != VISION_ENCODER}

    def component(self, name: str) -> "Config | None":
        """The config of a component; None without one, or before its path is read."""
        return self.components.get(name, ComponentConfig()).config
