"""Vision-language models: captions, answers, embeddings and attention maps."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from mmjax.data.text import Tokenizer
from mmjax.export.loaded import LoadedModel, seeds_of, some_images, texts_of
from mmjax.models import vision_language
from mmjax.sample.chunks import CHUNK
from mmjax.sample.text import TextDecoding, make_text_generator
from mmjax.types import UserError

QUESTION = "what color is the circle?"


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """Attention over an image for each generated word.

    Attributes:
        words: of the text.
        maps: attention weights, which sum to 1 for each word.
    """

    words: list[str]
    maps: Float32[np.ndarray, "words *grid"]


class _Describing(LoadedModel):
    """A model of images and texts.

    Images are uint8, or float32 from -1 to 1, of the config's size; or clips, or float32 log-mel features, if it was
    trained on them. Examples are independent of each other.
    """

    def _images(self, images: Any) -> Float32[np.ndarray, "n *pixels c"]:
        return some_images(images, self.config.data.image_shape)


class DualEncoder(_Describing):
    """A model with a shared embedding of images and texts."""

    def embed_text(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """Embeds texts as unit vectors, whose similarity to those of images is their dot product.

        Raises:
            UserError: for anything but texts.
        """
        return self._compiled("embed_text")(self.params, self.encode_text("text", texts_of("texts", texts)))

    def embed_image(self, images: Shaped[np.ndarray, "n *pixels c"]) -> Float32[np.ndarray, "n e"]:
        """Embeds images as unit vectors.

        Raises:
            UserError: for images of the wrong shape or range.
        """
        return self._compiled("embed_image")(self.params, self._images(images))


class _Writing(_Describing):
    """A model with a text decoder."""

    def attention_maps(
        self,
        images: Shaped[np.ndarray, "n *pixels c"],
        texts: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[AttentionMaps]:
        """Attention maps of the text decoder over each image, for each word of a text.

        They are the mean cross-attention over heads, layers and the tokens of a word, on the grid of patches.

        Args:
            images: n images.
            texts: n captions or, with questions, answers.
            questions: n questions.

        Raises:
            UserError: as for caption and answer, or unless there are n texts.
        """
        images = self._images(images)
        ids = self.encode_text("text", texts_of("texts", texts, images=len(images)))
        question = [] if questions is None else [self._questions(questions, len(images))]
        weights = self._compiled("attention_maps")(self.params, images, ids, *question)
        grid = vision_language.grid(self.config)
        results = []
        assert isinstance(self.tokenizer, Tokenizer)  # models that write have their own
        for row, tokens in zip(weights, ids, strict=True):
            words = self.tokenizer.words(tokens)
            maps = np.array([row[places].mean(axis=0) for _, places in words], np.float32)
            results.append(AttentionMaps([word for word, _ in words], maps.reshape(len(words), *grid)))
        return results

    def _questions(self, questions: Any, count: int) -> Int32[np.ndarray, "n t"]:
        texts = texts_of("questions", questions, QUESTION, count)
        for i in (i for i, text in enumerate(texts) if not text.strip()):
            raise UserError(f'questions: number {i} (from 0) is empty; ask something, as in "{QUESTION}"')
        return self.encode_text("question", texts)

    def _written(
        self, images: np.ndarray, questions: Int32[np.ndarray, "n t"] | None, seed: Any, changes: dict[str, Any]
    ) -> list[str]:
        decoding = TextDecoding.of(self._changed("text_decoding", changes))
        for name, used, by in (
            ("temperature", decoding.top_p > 0, "top_p"),
            ("length_penalty", decoding.beams > 1, "beams"),
        ):
            if name in changes and not used:
                raise UserError(f"text_decoding.{name}: has no effect without text_decoding.{by}; set that, too")
        seeds, asked = seeds_of(seed, len(images), "images"), [] if questions is None else [questions]

        make = functools.partial(make_text_generator, self.model_fns, decoding)
        program = self._compiled(decoding, make, on_cpu=4, elsewhere=CHUNK)
        return self.tokenizer.decode(program(self.params, images, seeds, *asked))


class Captioner(_Writing):
    """A model that describes images."""

    def caption(
        self, images: Shaped[np.ndarray, "n *pixels c"], seed: int | Sequence[int] = 0, **decoding: Any
    ) -> list[str]:
        """Describes each image.

        Args:
            images: n images.
            seed: of top_p sampling: one per image, or the first of n consecutive ones.
            decoding: overrides of the config's `text_decoding`: beams, length_penalty, top_p, temperature.

        Raises:
            UserError: for images of the wrong shape or range, or an invalid override.
        """
        return self._written(self._images(images), None, seed, decoding)


class QuestionAnswerer(_Writing):
    """A model that answers questions about images."""

    def answer(
        self,
        images: Shaped[np.ndarray, "n *pixels c"],
        questions: Sequence[str],
        seed: int | Sequence[int] = 0,
        **decoding: Any,
    ) -> list[str]:
        """Answers a question about each image.

        Args:
            questions: n texts, truncated to the config's text.length with a warning.
            images, seed, decoding: see caption.

        Raises:
            UserError: as for caption, for empty questions, or unless there are n of them.
        """
        images = self._images(images)
        return self._written(images, self._questions(questions, len(images)), seed, decoding)
