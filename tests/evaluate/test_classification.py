import numpy as np
import pytest

from mmjax.evaluate.classification import classification, zero_shot
from mmjax.types import UserError

LABELS = [np.array([0, 2, 1, -1, 1]), np.array([2, 2, -1, 0, 0])]
MASKS = [np.ones(5, bool), np.array([True, True, True, False, False])]
# Of the six examples that count, those marked are right.
CHOSEN = [np.array([0, 2, 2, 0, 1]), np.array([2, 0, 1, 0, 0])]
RIGHT = (1 + 1 + 0 + 1 + 1 + 0) / 6


def batches() -> list[dict]:
    return [
        {"label": label.astype(np.int32), "mask": mask, "chosen": chosen, "text": np.zeros((5, 3), np.int32)}
        for label, mask, chosen in zip(LABELS, MASKS, CHOSEN, strict=True)
    ]


def test_classification_accuracy() -> None:
    def predict(batch: dict) -> dict[str, np.ndarray]:
        noise = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
        return {"class_logits": noise + 3 * np.eye(3, dtype=np.float32)[batch["chosen"]]}

    assert dict(classification(predict, batches)) == {"classification/accuracy": pytest.approx(RIGHT)}


def test_no_labels_gives_no_metric() -> None:
    nothing = {"label": np.full(3, -1, np.int32), "mask": np.ones(3, bool), "text": np.zeros((3, 2), np.int32)}
    assert not list(classification(lambda batch: {"class_logits": np.zeros((3, 2), np.float32)}, lambda: [nothing]))


WORDS = {"cat": (1, 0, 0), "dog": (0, 1, 0), "bird": (0, 0, 1), "photo": (0.2, 0.2, 0.1)}


class TwoTowers:
    """Embeds images near the class `chosen`, and texts by their words; a row too long or short is an error."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, batch: dict) -> dict[str, np.ndarray]:
        assert len(batch["text"]) == 5
        texts = batch["text"] if isinstance(batch["text"], list) else [""] * 5
        self.asked += texts
        vectors = [sum((np.array(WORDS.get(word, (0, 0, 0))) for word in text.split()), np.zeros(3)) for text in texts]
        text = np.stack([v / max(np.linalg.norm(v), 1e-9) for v in vectors])
        return {"image_embedding": np.eye(3)[batch["chosen"]].astype(np.float32), "text_embedding": text}


def test_zero_shot_takes_the_nearest_class() -> None:
    model = TwoTowers()
    evaluator = zero_shot(("cat", "dog", "bird"), ("a photo of a {}", "a {}"))
    assert dict(evaluator(model.predict, batches)) == {"zero_shot/accuracy": pytest.approx(RIGHT)}
    asked = [text for text in model.asked if text]
    assert asked == [f"{start}a {name}" for name in ("cat", "dog", "bird") for start in ("a photo of ", "")]


def test_class_embedding_is_the_normalized_mean_of_its_prompts() -> None:
    class Fixed(TwoTowers):
        def predict(self, batch: dict) -> dict[str, np.ndarray]:
            outputs = super().predict(batch)
            # Two prompts of the first class point to opposite sides, so their mean is short, and yet as good as any.
            lookup = {"p cat": (1, 0.2, 0), "q cat": (-1, 0.2, 0), "p dog": (1, 0, 0), "q dog": (1, 0, 0)}
            text = [lookup.get(text, (0, 0, 1)) for text in self.asked[-5:]]
            norms = np.linalg.norm(text, axis=-1, keepdims=True)
            outputs["text_embedding"] = (np.array(text) / norms).astype(np.float32)
            outputs["image_embedding"] = np.tile(np.array([0.6, 0.8, 0], np.float32), (5, 1))
            return outputs

    batch = {**batches()[0], "label": np.zeros(5, np.int32)}
    (found,) = zero_shot(("cat", "dog"), ("p {}", "q {}"))(Fixed().predict, lambda: [batch])
    assert found == ("zero_shot/accuracy", 1.0)


def test_labels_without_a_name() -> None:
    with pytest.raises(UserError, match=r"evaluate\.classes: names 2 classes.* label 2"):
        dict(zero_shot(("cat", "dog"), ("a {}",))(TwoTowers().predict, batches))
