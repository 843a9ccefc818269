"""The fields of a config, their defaults and their bounds.

Those of `data` are in data_fields.py; those of a kind of model, a loss or an optimizer stand where it is defined.
"""

from dataclasses import dataclass, field
from typing import Literal

from mmjax.config.data_fields import DataConfig
from mmjax.config.schema import setting


@dataclass(frozen=True)
class TextConfig:
    """SentencePiece tokens.

    Attributes:
        length: the longest text in tokens; what goes beyond is cut.
        vocabulary: number of token ids, an upper bound where the captions have fewer words.
    """

    length: int = setting(32, above=0)
    vocabulary: int = setting(4096, at_least=300)  # all bytes, and some pieces


@dataclass(frozen=True)
class ModelConfig:
    """What every kind of model has; each kind adds its own fields in its file in mmjax/models.

    Attributes:
        kind: a name in mmjax.models.MODELS, or a dotted path to a ModelSpec.
    """

    kind: str = ""


@dataclass(frozen=True)
class LossConfig:
    """What every loss term has; some add fields in their files in mmjax/losses.

    Attributes:
        kind: a name in mmjax.losses.LOSSES, or a dotted path to a LossSpec; by default the name of the term.
        weight: of the term in the sum.
    """

    kind: str = ""
    weight: float = setting(1.0, above=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """What every optimizer has; each adds its own fields in mmjax/train/optimizer.py.

    Attributes:
        kind: a name in mmjax.train.optimizer.OPTIMIZERS, or a dotted path to an OptimizerSpec.
        learning_rate: its peak.
        schedule: after the warm-up the learning rate is held ("constant") or decayed to 0 ("cosine", "linear").
        warmup_steps: steps over which the learning rate rises linearly to its peak.
        grad_clip_norm: largest global norm of the gradient; 0 does not clip.
        grad_accum_steps: microbatches that a batch is computed in, one after the other, to save memory.
        ema_decay: of the exponential moving average of the parameters that is evaluated and exported; 0 keeps none.
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
    """How a model is computed, which changes no result beyond rounding, and is no part of what was trained.

    Attributes:
        dtype: of activations and matrix products; parameters are always float32. "auto": bfloat16 on TPUs and GPUs,
            float32 on CPUs.
        attention: kernel of scaled dot-product attention. "splash" is for TPUs and "cudnn" for NVIDIA GPUs; "auto":
            splash on TPUs, else xla. What a kernel does not take is computed by xla.
        convolution: "native", or "matmul", which is many times faster on CPUs; "auto" chooses by platform.
        remat: recompute each layer in the backward pass, to save memory.
        remat_policy: what of each layer is kept nevertheless: "nothing", "attention" (outputs of attention) or "dots"
            (all matrix products but those inside of attention).
        unroll: layers compiled one after the other in each iteration of the scan over layers; 0: one, but all on CPUs,
            where that is faster.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    convolution: Literal["auto", "native", "matmul"] = "auto"
    remat: bool = False
    remat_policy: Literal["nothing", "attention", "dots"] = "nothing"
    unroll: int = setting(0, at_least=0)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The second player of adversarial training, for objectives with the term "adversarial" or "feature_matching".

    Attributes:
        loss: "non_saturating" (Goodfellow et al. 2014) or "hinge" (Lim and Ye 2017).
        widths: channels of its convolutions, each halving the sides; it judges patches.
        regularizer, regularizer_weight: "r1" (Mescheder et al. 2018), "lecam" (Tseng et al. 2021) or "none".
        learning_rate, b1, b2: of Adam.
        train_from: the step from which it is trained.
        start: the step from which the generator's adversarial terms count.
    """

    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    widths: tuple[int, ...] = setting((64, 128, 256), above=0)
    regularizer: Literal["r1", "lecam", "none"] = "lecam"
    regularizer_weight: float = setting(0.01, at_least=0)
    learning_rate: float = setting(1e-4, above=0)
    b1: float = setting(0.0, at_least=0, below=1)
    b2: float = setting(0.99, at_least=0, below=1)
    train_from: int = setting(0, at_least=0)
    start: int = setting(0, at_least=0)


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
class ComponentConfig:
    """A frozen model that another stands on. In a config it may be given as a path, or as a config, alone.

    Attributes:
        path: workdir or model folder of a trained one, which is copied into the workdir; "": `config` is trained first,
            in WORKDIR/NAME.
        config: its config; read from the path where there is one.
    """

    path: str = ""
    config: "Config | None" = None


@dataclass(frozen=True)
class TokensConfig:
    """How a data set is encoded into visual tokens, for a model with a visual tokenizer.

    Attributes:
        cache: folder of the encoded data set; "" takes WORKDIR/tokens.
        num_augmentations: crops and flips of each training image that are encoded.
    """

    cache: str = ""
    num_augmentations: int = setting(1, above=0)


@dataclass(frozen=True)
class SamplingConfig:
    """How a masked generator draws, where nothing else is asked for.

    Attributes:
        kind: a name in mmjax.sample.SAMPLERS, or a dotted path to a SamplerSpec.
        steps: forward passes; each settles some of the tokens.
        order: "confidence" settles the surest first (Chang et al. 2022), "halton" spreads them evenly over the grid
            (Besnier et al. 2025).
        guidance: how closely to follow the text: 0 ignores it, 1 samples as trained, more exaggerates it.
        guidance_schedule: "linear" raises guidance over the steps from 1, "constant" keeps it.
        temperature: of the tokens drawn.
        confidence_temperature: of the noise on the order by confidence, which falls to 0 over the steps.
        top_k: draw only from so many of the likeliest codes; 0: from all.
        refinement_steps: further forward passes (blocked Gibbs sampling), each of which resamples a block of the tokens
            given all others; small models draw truer shapes with them.
        refinement_temperature: of the tokens that are resampled.
    """

    kind: str = ""
    steps: int = setting(12, above=0)
    order: Literal["confidence", "halton"] = "confidence"
    guidance: float = setting(3.0, at_least=0)
    guidance_schedule: Literal["linear", "constant"] = "linear"
    temperature: float = setting(1.0, above=0)
    confidence_temperature: float = setting(4.5, at_least=0)
    top_k: int = setting(0, at_least=0)
    refinement_steps: int = setting(0, at_least=0)
    refinement_temperature: float = setting(1.0, above=0)


@dataclass(frozen=True)
class TextDecodingConfig:
    """How captions and answers are written, where nothing else is asked for.

    Attributes:
        beams: texts kept at a time by beam search; 1 takes the likeliest token at each place.
        length_penalty: of beam search; larger ones favor longer texts.
        top_p: above 0: draw from the likeliest tokens that together have this probability, 1 from all.
        temperature: of what is drawn.
    """

    beams: int = setting(1, above=0)
    length_penalty: float = setting(0.6, at_least=0)
    top_p: float = setting(0.0, at_least=0, at_most=1)
    temperature: float = setting(1.0, above=0)


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
    slice: int = setting(0, at_least=0)


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
        best_metric: the evaluation metric that decides which checkpoint is best; "-" before it: smaller is better.
        init_from: workdir or model folder that training starts from: its text tokenizer, and its parameters that have
            the names of this model's, such as those of a generator of another size. All others are fresh.
        init_rename: parameters that have another name there, as in {"vision": "encoder"}: prefixes of names; "-" leaves
            them fresh.
        max_nonfinite_steps: stop after so many steps in a row with a loss or gradient that is not finite.
        skip_grad_spikes: also skip steps whose gradient has more than so many times its usual norm; 0 skips none.
        wandb_project: also log to this Weights & Biases project (needs the wandb extra).
    """

    batch: int = setting(64, above=0)
    steps: int = setting(0, at_least=0)
    epochs: int = setting(0, at_least=0)
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
class EvaluateConfig:
    """What is measured on the evaluation set.

    Attributes:
        evaluators: keys of mmjax.evaluate.EVALUATORS, or dotted paths to EvaluatorSpecs.
        batch: examples a batch, over all devices.
        samples: how many samples the report shows; 0: none.
        classes: for the evaluator zero_shot, the names of the classes in the order of their labels.
        prompts: what it makes of a name, {}; a class is the mean of them.
    """

    evaluators: tuple[str, ...] = setting(("losses",), registry="evaluator")
    batch: int = setting(64, above=0)
    samples: int = setting(16, at_least=0)
    classes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ("a photo of a {}",)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole config.

    Attributes:
        name: of the training, in logs and reports; by default that of the config's file.
        seed: of everything random: parameters, order of the examples, crops, masks, samples.
        data: where examples come from and how images are prepared.
        text: SentencePiece tokens.
        model: the kind of model, and its sizes.
        components: the frozen models that the model stands on, by name; each kind of model says which it takes. Each is
            the folder of a trained one, or a config that is trained first.
        pretraining: a config for the same model that is trained first, in WORKDIR/pretraining, such as one on images
            before one on clips; training starts from its parameters.
        tokens: how a data set is encoded into visual tokens, for a model with a visual tokenizer.
        sampling: how a masked generator draws.
        text_decoding: how captions and answers are decoded.
        losses: the terms of the training loss, by name.
        discriminator: of adversarial training.
        perceptual: weights for the loss term "perceptual".
        optimizer: and its schedule.
        compute: how the model is computed, which is no part of what is trained.
        mesh: devices along each mesh axis.
        train: the training loop.
        evaluate: what is measured on the evaluation set.
    """

    name: str = ""
    seed: int = 0
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
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def component(self, name: str) -> "Config | None":
        """The config of a component; None where there is none, or where its path was not read yet."""
        found = self.components.get(name)
        return found.config if found else None
