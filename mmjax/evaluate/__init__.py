"""Evaluators by name: small generators of metrics, the same in the training loop and from the command line."""

import math
from collections.abc import Callable

from mmjax.config import Config, VisionLanguageConfig, VisualTokenizerConfig
from mmjax.evaluate.answers import NAMES as OF_ANSWERS
from mmjax.evaluate.answers import answers
from mmjax.evaluate.caption_faithfulness import caption_faithfulness
from mmjax.evaluate.captions import captions
from mmjax.evaluate.captions import metric_names as of_captions
from mmjax.evaluate.classification import classification
from mmjax.evaluate.codes import codes
from mmjax.evaluate.diversity import diversity
from mmjax.evaluate.feature_distance import feature_distance, random_features, random_kernels
from mmjax.evaluate.losses import losses
from mmjax.evaluate.motion import ASPECTS as OF_CLIPS
from mmjax.evaluate.motion import motion
from mmjax.evaluate.reconstruction import check_size, reconstruction
from mmjax.evaluate.report import write_report
from mmjax.evaluate.retrieval import NAMES as OF_RETRIEVAL
from mmjax.evaluate.retrieval import retrieval
from mmjax.evaluate.runner import run, write
from mmjax.evaluate.samples import samples
from mmjax.evaluate.scenes import ASPECTS as OF_SCENES
from mmjax.evaluate.scenes import scenes
from mmjax.evaluate.zero_shot import zero_shot
from mmjax.models import lpips
from mmjax.types import Evaluator, UserError

__all__ = ["DRAWN", "EVALUATORS", "NEEDS", "WRITTEN", "build", "run", "write", "write_report"]


def _reconstruction(config: Config) -> Evaluator:
    check_size(config.data.size)
    return reconstruction


def _codes(config: Config) -> Evaluator:
    if not isinstance(config.model, VisualTokenizerConfig):
        raise UserError(f"evaluate.evaluators: codes is for a visual_tokenizer, not for model.kind={config.model.kind}")
    return codes(math.prod(config.model.levels))


def _scenes(config: Config) -> Evaluator:
    _need_images("scenes", config)
    return scenes


def _diversity(config: Config) -> Evaluator:
    _need_images("diversity", config)
    if config.data.scenes.fully_specified:
        raise UserError(
            "evaluate.evaluators: diversity is for captions that do not determine the image; set "
            "data.scenes.fully_specified to false, or leave diversity out"
        )
    return diversity


def _motion(config: Config) -> Evaluator:
    if config.data.frames == 1:
        raise UserError("evaluate.evaluators: motion is for clips, and data.frames is 1; scenes is for images")
    return motion


def _feature_distance(config: Config) -> Evaluator:
    if not config.perceptual.weights:
        return feature_distance(random_features, random_kernels())
    return feature_distance(lpips.last_features, lpips.read(config.perceptual, config.data.size))


def _captions_true(config: Config) -> Evaluator:
    _need_images("caption_faithfulness", config)
    return caption_faithfulness


def _zero_shot(config: Config) -> Evaluator:
    if not config.evaluate.classes:
        raise UserError(
            "evaluate.classes: zero_shot needs the classes' names in the order of their labels, as in ('cat', 'dog')"
        )
    return zero_shot(config.evaluate.classes, config.evaluate.prompts)


def _need_images(name: str, config: Config) -> None:
    if config.data.frames > 1:
        raise UserError(
            f"evaluate.evaluators: {name} is for images, and data.frames is {config.data.frames}; motion is for clips"
        )


EVALUATORS: dict[str, Callable[[Config], Evaluator]] = {
    "answers": lambda config: answers,
    "captions": lambda config: captions(),
    "caption_faithfulness": _captions_true,
    "classification": lambda config: classification,
    "codes": _codes,
    "diversity": _diversity,
    "feature_distance": _feature_distance,
    "losses": lambda config: losses,
    "motion": _motion,
    "reconstruction": _reconstruction,
    "retrieval": lambda config: retrieval,
    "samples": lambda config: samples(config.evaluate.samples, config.data.frame_rate),
    "scenes": _scenes,
    "zero_shot": _zero_shot,
}

# Evaluators that look at images the model draws.
DRAWN = frozenset({"diversity", "motion", "samples", "scenes"})

# Evaluators that read texts the model writes: by name, the output that has them, a list of b strings.
WRITTEN = {"answers": "answer", "captions": "caption", "caption_faithfulness": "caption"}

# Evaluators of what models of images and texts say, with the terms of which one must have trained it.
_CONTRASTIVE = ("contrastive", "sigmoid_contrastive")
TRAINED_BY: dict[str, tuple[str, ...]] = {
    "answers": ("answering",),
    "captions": ("captioning",),
    "caption_faithfulness": ("captioning",),
    "classification": ("classification",),
    "retrieval": _CONTRASTIVE,
    "zero_shot": _CONTRASTIVE,
}

# Fields that the data source must provide, beside those of every batch.
NEEDS: dict[str, tuple[str, ...]] = {
    "answers": ("image", "question"),
    "captions": ("image", "text"),
    "caption_faithfulness": ("image", "scene"),
    "classification": ("label",),
    "codes": ("image",),
    "diversity": ("scene",),
    "feature_distance": ("image",),
    "motion": ("scene",),
    "reconstruction": ("image",),
    "retrieval": ("image", "text"),
    "scenes": ("scene",),
    "zero_shot": ("image", "label"),
}


def build(config: Config) -> dict[str, Evaluator]:
    """The evaluators that the config names, in its order, and the samples where it asks for any.

    Raises:
        UserError: for an unknown name, or an evaluator that the config's model or images are not for.
    """
    names = list(dict.fromkeys(config.evaluate.evaluators))
    if config.evaluate.samples and "samples" not in names:
        names.append("samples")
    for name in names:
        if name not in EVALUATORS:
            raise UserError(f"evaluate.evaluators: no evaluator {name!r}; known: {', '.join(EVALUATORS)}")
        _check_trained(name, config)
    return {name: EVALUATORS[name](config) for name in names}


def _check_trained(name: str, config: Config) -> None:
    """Raises UserError for an evaluator of what this model cannot do."""
    terms = TRAINED_BY.get(name, ())
    if terms and not set(terms).intersection(config.objective.terms):
        raise UserError(
            f"evaluate.evaluators: {name} is for models that were trained by {' or '.join(terms)}; add that to "
            "objective.terms, or leave it out"
        )
    if not terms and isinstance(config.model, VisionLanguageConfig) and name not in ("losses", "samples"):
        raise UserError(
            f"evaluate.evaluators: {name} is for models that draw, not for model.kind={config.model.kind}, which "
            f"{', '.join(TRAINED_BY)} are for"
        )


def metric_names(config: Config) -> tuple[str, ...]:
    """The names of the metrics that the config's evaluators give."""
    names = {
        "answers": OF_ANSWERS,
        "captions": of_captions(),
        "caption_faithfulness": ("captions/true",),
        "classification": ("classification/accuracy",),
        "codes": ("tokenizer/code_usage",),
        "diversity": ("scenes/diversity",),
        "feature_distance": ("reconstruction/feature_distance",),
        "losses": ("loss", *(name for name in config.objective.terms if name not in config.adversarial_terms)),
        "motion": tuple(f"scenes/{name}" for name in OF_CLIPS),
        "reconstruction": ("reconstruction/psnr", "reconstruction/ssim"),
        "retrieval": OF_RETRIEVAL,
        "scenes": tuple(f"scenes/{name}" for name in OF_SCENES),
        "zero_shot": ("zero_shot/accuracy",),
    }
    return tuple(metric for name in config.evaluate.evaluators for metric in names.get(name, ()))
