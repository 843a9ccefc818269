"""What a trained model of images and texts says of images: captions, answers, embeddings, and where it looked."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32, Shaped

from mmjax import models
from mmjax.config import Config, VisionLanguageConfig, resolve, to_dict
from mmjax.data.text import Tokenizer
from mmjax.export.validation import seeds_of, texts_of
from mmjax.models import needs, vision_language
from mmjax.sample.chunks import in_chunks
from mmjax.sample.editing import images_of
from mmjax.sample.text import TextDecoding, make_text_generator
from mmjax.types import Params, UserError

QUESTION = "what color is the circle?"

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """Where a model looked for each word that it wrote.

    Attributes:
        words: of the text.
        maps: shares of the places of the image, those of each word 1 together.
    """

    words: list[str]
    maps: Float32[np.ndarray, "words *grid"]


@dataclasses.dataclass(frozen=True)
class DescribingModel:
    """What a GenerativeModel says of images. Its attributes are described there.

    Images are uint8, or float32 from -1 to 1, of the config's size; clips, or log-mel features of sounds, where it
    was trained on those. What is said of one depends on no other.
    """

    config: Config
    params: Params
    tokenizer: Tokenizer

    @functools.cached_property
    def apply(self) -> Any:
        """The compiled apply(params, **inputs), with what `models.inputs` names for the config."""
        module = models.build(self.config)
        return jax.jit(lambda params, **seen: module.apply({"params": params}, **seen))

    def caption(
        self, images: Shaped[np.ndarray, "n *pixels c"], seed: int | Sequence[int] = 0, **writing: Any
    ) -> list[str]:
        """Describes each image.

        Args:
            images: n images.
            seed: where words are drawn at random (top_p): one an image, or the first of n consecutive ones.
            writing: fields of the config's `writing` that are to be different: beams, length_penalty, top_p,
                temperature.

        Raises:
            UserError: for images of the wrong shape or range, for other fields or values, and where the model was not
                trained for it.
        """
        self._need("write captions", "captioning")
        return self._written(self._images(images), None, seed, writing)

    def answer(
        self,
        images: Shaped[np.ndarray, "n *pixels c"],
        questions: Sequence[str],
        seed: int | Sequence[int] = 0,
        **writing: Any,
    ) -> list[str]:
        """Answers a question about each image.

        Args:
            questions: n texts; what goes beyond the config's text.length is cut, and a warning says so.
            images, seed, writing: see caption.

        Raises:
            UserError: as caption, and for questions that are empty or not as many as images.
        """
        self._need("answer questions", "answering")
        images = self._images(images)
        return self._written(images, self._questions(questions, len(images)), seed, writing)

    def embed_text(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """A vector of length 1 for each text: the closer to that of an image, the better the two go together.

        Raises:
            UserError: for other than texts, and where the model was not trained to compare.
        """
        self._need("compare images and texts", "contrastive", "sigmoid_contrastive")
        text = self._encoded("text", texts_of("texts", texts))
        return in_chunks(lambda part: self._embed_text(self.params, part), text)

    def embed_image(self, images: Shaped[np.ndarray, "n *pixels c"]) -> Float32[np.ndarray, "n e"]:
        """The same of images.

        Raises:
            UserError: for images of the wrong shape or range, and where the model was not trained to compare.
        """
        self._need("compare images and texts", "contrastive", "sigmoid_contrastive")
        return in_chunks(lambda part: self._embed_image(self.params, part), self._images(images))

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
        self._need("write captions or answers", *(("captioning",) if questions is None else ("answering",)))
        images = self._images(images)
        known = self._encoded("text", _as_many("texts", texts_of("texts", texts), len(images)))
        asked = [] if questions is None else [self._questions(questions, len(images))]
        weights = in_chunks(lambda *part: self._attention_maps(self.params, *part), images, known, *asked)
        grid = needs.grid(self.config)
        found = []
        for row, ids in zip(weights, known, strict=True):
            words = self.tokenizer.words(ids)
            maps = [row[places].mean(axis=0).reshape(grid) for _, places in words]
            shares = np.stack(maps) if maps else np.zeros((0, *grid), np.float32)
            found.append(AttentionMaps([word for word, _ in words], shares))
        return found

    def _need(self, does: str, *terms: str) -> None:
        config = self.config
        if not (isinstance(config.model, VisionLanguageConfig) and set(terms) & set(config.objective.terms)):
            raise UserError(
                f"{config.name or 'model'}: cannot {does}; name a model of kind vision_language that was trained with "
                f"objective.terms.{' or '.join(terms)}"
            )

    def _images(self, images: Any) -> Float32[np.ndarray, "n *pixels c"]:
        shape = needs.image_shape(self.config.data)
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

    def _questions(self, questions: Any, count: int) -> Int32[np.ndarray, "n t"]:
        texts = _as_many("questions", texts_of("questions", questions, QUESTION), count)
        for i in (i for i, text in enumerate(texts) if not text.strip()):
            raise UserError(f'questions: number {i} (from 0) is empty; ask something, as in "{QUESTION}"')
        return self._encoded("question", texts)

    def _encoded(self, name: str, texts: list[str]) -> Int32[np.ndarray, "n t"]:
        """Token ids; `name` is what a warning calls a text that is cut."""
        length = self.config.text.length
        for text in dict.fromkeys(text for text in texts if self.tokenizer.length(text) > length):
            logger.warning("%s %r has more than %d tokens; what goes beyond is cut", name, text[:60], length)
        return self.tokenizer.encode(texts, length)

    def _written(
        self, images: np.ndarray, questions: Int32[np.ndarray, "n t"] | None, seed: Any, changes: dict[str, Any]
    ) -> list[str]:
        config_dict = to_dict(self.config)
        writing = text_decoding(resolve(config_dict | {"writing": config_dict["writing"] | changes}))
        program = self._programs_of_writing.setdefault(writing, jax.jit(make_text_generator(self._writer, writing)))
        seeds, asked = seeds_of(seed, len(images), "images"), [] if questions is None else [questions]

        def written(image: np.ndarray, seeds: np.ndarray, question: np.ndarray | None = None) -> Any:
            return program(self.params, image, question, seeds)

        return self.tokenizer.decode(in_chunks(written, images, seeds, *asked))

    @functools.cached_property
    def _programs_of_writing(self) -> dict[TextDecoding, Any]:
        return {}

    @functools.cached_property
    def _writer(self) -> vision_language.ModelFns:
        return vision_language.model_fns(self.config)

    @functools.cached_property
    def _attention_maps(self) -> Any:
        return jax.jit(self._writer.attention_maps)

    @functools.cached_property
    def _embed_text(self) -> Any:
        return jax.jit(self._writer.embed_text)

    @functools.cached_property
    def _embed_image(self) -> Any:
        return jax.jit(self._writer.embed_image)


def text_decoding(config: Config) -> TextDecoding:
    """How a config's model writes captions and answers."""
    return TextDecoding(config.text.length, **dataclasses.asdict(config.writing))


def _as_many(name: str, texts: list[str], count: int) -> list[str]:
    if len(texts) != count:
        raise UserError(f"{name}: must be one for each of the {count} images, not {len(texts)}")
    return texts
