"""What a trained model of images and texts says of images: captions, answers, embeddings, and where it looked."""

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
    """Where a model looked for each word that it wrote.

    Attributes:
        words: of the text.
        maps: shares of the places of the image, those of each word 1 together.
    """

    words: list[str]
    maps: Float32[np.ndarray, "words *grid"]


class _Describing(LoadedModel):
    """A model of images and texts.

    Images are uint8, or float32 from -1 to 1, of the config's size; clips, or log-mel features of sounds, where it was
    trained on those. What is said of one depends on no other.
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
            wanted = f"float32 {[count, *shape]}, as mmjax.data.read_sound gives them"
            raise UserError(f"images: must be {wanted}, not {sounds.dtype} {list(sounds.shape)}")
        return sounds


class DualEncoder(_Describing):
    """A model with one space for images and texts."""

    def embed_text(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """A vector of length 1 for each text: the closer to that of an image, the better the two go together.

        Raises:
            UserError: for other than texts, and where the model was not trained to compare.
        """
        return self._embed_text(self.params, self.encode_text("text", texts_of("texts", texts)))

    def embed_image(self, images: Shaped[np.ndarray, "n *pixels c"]) -> Float32[np.ndarray, "n e"]:
        """The same of images.

        Raises:
            UserError: for images of the wrong shape or range, and where the model was not trained to compare.
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
        """Where the text decoder looks in each image as it writes the words of a text about it.

        The mean of its cross-attention over heads, layers and the tokens of a word; a grid of patches, for clips after
        another of frames.

        Args:
            images: n images.
            texts: n captions or, with questions, answers, such as the model wrote.
            questions: which each answers, as in `answer`.

        Raises:
            UserError: as caption and answer, and for texts that are not as many as images.
        """
        images = self._images(images)
        known = self.encode_text("text", _as_many("texts", texts_of("texts", texts), len(images)))
        asked = [] if questions is None else [self._questions(questions, len(images))]
        weights = self._attention_maps(self.params, images, known, *asked)
        grid = vision_language.grid(self.config)
        found = []
        for row, ids in zip(weights, known, strict=True):
            words = self.tokenizer.words(ids)
            maps = [row[places].mean(axis=0).reshape(grid) for _, places in words]
            shares = np.stack(maps) if maps else np.zeros((0, *grid), np.float32)
            found.append(AttentionMaps([word for word, _ in words], shares))
        return found

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
            seed: where words are drawn at random (top_p): one an image, or the first of n consecutive ones.
            decoding: fields of the config's `text_decoding` that are to be different: beams, length_penalty, top_p,
                temperature.

        Raises:
            UserError: for images of the wrong shape or range, for other fields or values, and where the model was not
                trained for it.
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
            questions: n texts; what goes beyond the config's text.length is cut, and a warning says so.
            images, seed, decoding: see caption.

        Raises:
            UserError: as caption, and for questions that are empty or not as many as images.
        """
        images = self._images(images)
        return self._written(images, self._questions(questions, len(images)), seed, decoding)


def _as_many(name: str, texts: list[str], count: int) -> list[str]:
    if len(texts) != count:
        raise UserError(f"{name}: must be one for each of the {count} images, not {len(texts)}")
    return texts
