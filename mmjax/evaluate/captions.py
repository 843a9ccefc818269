"""Caption metrics of the COCO evaluation: BLEU, ROUGE-L, CIDEr-D and METEOR."""

import logging
from collections.abc import Callable, Iterable

from mmjax.evaluate import meteor as java_meteor
from mmjax.evaluate.caption_scores import LONGEST, bleu, cider, rouge_l
from mmjax.evaluate.penn_treebank import tokenize
from mmjax.evaluate.rows import predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Evaluator, Predict, Results

logger = logging.getLogger(__name__)
NAMES = (*(f"captions/bleu_{n}" for n in range(1, LONGEST + 1)), "captions/rouge_l", "captions/cider")
METEOR = "captions/meteor"


def metric_names() -> tuple[str, ...]:
    """The metrics available on this machine: METEOR only if its program is installed."""
    return NAMES if java_meteor.missing() else (*NAMES, METEOR)


def captions() -> Evaluator:
    """An evaluator that yields captions/bleu_1 to bleu_4, rouge_l (0 to 1), cider (0 to 10) and meteor (0 to 1).

    The values are those of pycocoevalcap; METEOR needs it and Java. The model's `caption` is compared with all captions
    of the example. Examples without captions are ignored.
    """
    warned = False

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        nonlocal warned
        generated, references = [], []
        for batch, outputs in predicted(predict, batches):
            for caption, others in zip(outputs["caption"], batch["captions"], strict=True):
                if others:
                    generated.append(tokenize(caption))
                    references.append([tokenize(other) for other in others])
        if not generated:
            yield from ((name, float("nan")) for name in metric_names())
            return
        values = [*bleu(generated, references), rouge_l(generated, references), cider(generated, references)]
        yield from zip(NAMES, values, strict=True)
        try:
            yield METEOR, java_meteor.meteor(generated, references)
        except RuntimeError as error:
            if not warned:
                logger.warning("%s is left out: %s", METEOR, error)
            warned = True

    return evaluate


EVALUATOR = EvaluatorSpec(
    build=lambda config: captions(),
    metrics=lambda config: metric_names(),
    predictions=("caption",),
    fields=("image", "text"),
)
