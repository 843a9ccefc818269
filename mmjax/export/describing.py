"""Vision-language models: captions, answers, embeddings and attention maps."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32, Shaped

from mmjax.config import resolve, to_dict
from mmjax.export.loaded import LoadedModel
from mmjax.export.validation import seeds_of, texts_of
from mmjax.models import vision_language
from mmjax.sample.chunks import CHUNK, per_example
from mmjax.sample.editing import images_of
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
        shape = self.config.data.image_shape
        count = len(images) if hasattr(images, "__len__") else 0
        if not count:
            raise UserError(f"images: must be uint8 or float32 {['n', *shape]}, of at least one")
        if shape[-1] == 3:
            return images_of("images", images, (count, *shape))
        sounds = np.asarray(images)
        if sounds.shape != (count, *shape) or sounds.dtype != np.float32:
            raise UserError(
                f"images: must be float32 {[count, *shape]}, as of mmjax.data.read_sound, not {sounds.dtype} "
                f"{list(sounds.shape)}"
            )
        return sounds


class DualEncoder(_Describing):
    """A model with a shared embedding of images and texts."""

    def embed_text(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """Embeds texts as unit vectors, whose similarity to those of images is their dot product.

        Raises:
            UserError: for anything but texts.
        """
        return self._embed_text(self.params, self.encode_text("text", texts_of("texts", texts)))

    def embed_image(self, images: Shaped[np.ndarray, "n *pixels c"]) -> Float32[np.ndarray, "n e"]:
        """Embeds images as unit vectors.

        Raises:
            UserError: for images of the wrong shape or range.
        """
        return self._embed_image(self.params, self._images(images))

    @functools.cached_property
    def _embed_text(self) -> Any:
        return per_example(self.model_fns.embed_text)

    @functools.cached_property
    def _embed_image(self) -> Any:
        return per_example(self.model_fns.embed_image)


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
        ids = self.encode_text("text", _as_many("texts", texts_of("texts", texts), len(images)))
        question = [] if questions is None else [self._questions(questions, len(images))]
        weights = self._attention_maps(self.params, images, ids, *question)
        grid = vision_language.grid(self.config)
        results = []
        for row, tokens in zip(weights, ids, strict=True):
            words = self.tokenizer.words(tokens)
            maps = [row[places].mean(axis=0).reshape(grid) for _, places in words]
            stacked = np.stack(maps) if maps else np.zeros((0, *grid), np.float32)
            results.append(AttentionMaps([word for word, _ in words], stacked))
        return results

    def _questions(self, questions: Any, count: int) -> Int32[np.ndarray, "n t"]:
        texts = _as_many("questions", texts_of("questions", questions, QUESTION), count)
        for i in (i for i, text in enumerate(texts) if not text.strip()):
            raise UserError(f'questions: number {i} (from 0) is empty; ask something, as in "{QUESTION}"')
        return self.encode_text("question", texts)

    def _written(
        self, images: np.ndarray, questions: Int32[np.ndarray, "n t"] | None, seed: Any, changes: dict[str, Any]
    ) -> list[str]:
        config_dict = to_dict(self.config)
        tree = config_dict | {"text_decoding": config_dict["text_decoding"] | changes}
        decoding = TextDecoding.of(resolve(tree))
        seeds, asked = seeds_of(seed, len(images), "images"), [] if questions is None else [questions]
        return self.tokenizer.decode(self._program(decoding)(self.params, images, seeds, *asked))

    def _program(self, decoding: TextDecoding) -> Any:
        if decoding not in self._programs:
            generate = make_text_generator(self.model_fns, decoding)

            def written(params: Any, image: jax.Array, seeds: jax.Array, question: jax.Array | None = None) -> Any:
                return generate(params, image, question, seeds)

            self._programs[decoding] = per_example(written, on_cpu=4, elsewhere=CHUNK)
        return self._programs[decoding]

    @functools.cached_property
    def _programs(self) -> dict[TextDecoding, Any]:
        return {}

    @functools.cached_property
    def _attention_maps(self) -> Any:
        return per_example(self.model_fns.attention_maps)


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


def _as_many(name: str, texts: list[str], count: int) -> list[str]:
    if len(texts) != count:
        raise UserError(f"{name}: must be one for each of the {count} images, not {len(texts)}")
    return texts
