"""Evaluators by name: small generators of figures, the same in the training loop and from the command line."""

import math
from collections.abc import Callable

from mmjax.config import Config, VisualTokenizer
from mmjax.evaluate.codes import codes
from mmjax.evaluate.losses import losses
from mmjax.evaluate.reconstruction import check_size, reconstruction
from mmjax.evaluate.report import write_report
from mmjax.evaluate.runner import run, write
from mmjax.evaluate.samples import samples
from mmjax.evaluate.scenes import scenes
from mmjax.types import Evaluator, UserError

__all__ = ["EVALUATORS", "NEEDS", "build", "run", "write", "write_report"]


def _reconstruction(config: Config) -> Evaluator:
    check_size(config.data.size)
    return reconstruction


def _codes(config: Config) -> Evaluator:
    if not isinstance(config.model, VisualTokenizer):
        raise UserError(f"evaluate.evaluators: codes is for a visual_tokenizer, not for model.kind={config.model.kind}")
    return codes(math.prod(config.model.levels))


EVALUATORS: dict[str, Callable[[Config], Evaluator]] = {
    "codes": _codes,
    "losses": lambda config: losses,
    "reconstruction": _reconstruction,
    "samples": lambda config: samples(config.evaluate.samples),
    "scenes": lambda config: scenes,
}

# Fields that the data source must provide, beside those of every batch.
NEEDS: dict[str, tuple[str, ...]] = {"scenes": ("scene",)}


def build(config: Config) -> dict[str, Evaluator]:
    """The evaluators that the recipe names, in its order, and the samples where it asks for any.

    Raises:
        UserError: for an unknown name, or an evaluator that the recipe's pictures are too small for.
    """
    names = list(dict.fromkeys(config.evaluate.evaluators))
    if config.evaluate.samples and "samples" not in names:
        names.append("samples")
    for name in names:
        if name not in EVALUATORS:
            raise UserError(f"evaluate.evaluators: no evaluator {name!r}; known: {', '.join(EVALUATORS)}")
    return {name: EVALUATORS[name](config) for name in names}


def figure_names(config: Config) -> tuple[str, ...]:
    """The names of the figures that the recipe's evaluators give."""
    names = {
        "codes": ("tokenizer/code_usage",),
        "losses": ("loss", *config.objective.terms),
        "reconstruction": ("reconstruction/psnr", "reconstruction/ssim"),
        "scenes": tuple(f"scenes/{name}" for name in ("shape", "color", "size", "relation", "all")),
    }
    return tuple(figure for name in config.evaluate.evaluators for figure in names.get(name, ()))
