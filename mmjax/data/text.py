"""Text tokenizers: mmjax's own (SentencePiece), and that of a pretrained text encoder."""

import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import sentencepiece
from jaxtyping import Int, Int32

from mmjax.files import read_file
from mmjax.types import BEGIN, END, MASK, PADDING, UNKNOWN, UserError

MASK_PIECE = "<mask>"
SPACE = "\u2581"  # first character of pieces that begin a word
MAX_CAPTIONS = 200_000  # that train the vocabulary; more change it little
MAX_CAPTION_LENGTH = 2_000  # characters
MAX_TOKENIZER = 256 << 20  # bytes of a serialized one
FILES = FILE, JSON_FILE = "tokenizer.model", "tokenizer.json"  # in a workdir or model folder: own, of others


@runtime_checkable
class TextTokenizer(Protocol):
    """What encodes and decodes texts.

    Attributes:
        size: one more than the largest token id.
        padding, end: ids of the tokens of padding and of the end of a text.
        proto: its serialized form.
    """

    proto: bytes
    size: int
    padding: int
    end: int

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b t"]:
        """Encodes texts as int32 [b, length], with padding."""

    def length(self, text: str) -> int:
        """Number of tokens of a text, special ones included."""

    def decode(self, ids: Int[np.ndarray, "b t"]) -> list[str]:
        """Decodes each row."""


class Tokenizer:
    """Encodes and decodes texts. Attributes: `proto`, the serialized model; for others see TextTokenizer."""

    padding = PADDING
    end = END

    def __init__(self, proto: bytes) -> None:
        self.proto = proto
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.size: int = self._processor.get_piece_size()

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b t"]:
        """Encodes texts as int32 [b, length]: at most length - 1 tokens, the end token, padding.

        Unknown characters are encoded as bytes. `<mask>` in a text gives the mask token.
        """
        ids = np.full((len(texts), length), PADDING, np.int32)
        for row, pieces in enumerate(self._processor.encode([_plain(text) for text in texts])):
            kept = [*pieces[: length - 1], END]
            ids[row, : len(kept)] = kept
        return ids

    def length(self, text: str) -> int:
        """Number of tokens of a text, including the end token."""
        return len(self._processor.encode(_plain(text))) + 1

    def decode(self, ids: Int[np.ndarray, "b t"]) -> list[str]:
        """Decodes each row up to its end token; unknown ids are skipped."""
        return [self._processor.decode([i for _, i in self._kept(row)]) for row in np.asarray(ids).tolist()]

    def words(self, ids: Int[np.ndarray, " t"]) -> list[tuple[str, list[int]]]:
        """The words of a row up to its end token with their token indices; punctuation belongs to the word before."""
        row = np.asarray(ids).tolist()
        groups: list[list[int]] = []
        for place, i in self._kept(row):
            if not groups or self._processor.id_to_piece(i).startswith(SPACE):
                groups.append([])
            groups[-1].append(place)
        texts = [self._processor.decode([row[place] for place in places]).strip() for places in groups]
        return [(text, places) for text, places in zip(texts, groups, strict=True) if text]

    def _kept(self, row: list[int]) -> list[tuple[int, int]]:
        """Index and id of each token up to the end token, without padding, begin tokens and unknown ids."""
        row = row[: row.index(END)] if END in row else row
        return [(i, token) for i, token in enumerate(row) if 0 <= token < self.size and token not in (PADDING, BEGIN)]


def file_name(proto: bytes) -> str:
    """Name of the file of a serialized tokenizer in a workdir or model folder."""
    return JSON_FILE if proto.startswith(b"{") else FILE


def tokenizer_file(folder: Path) -> Path:
    """The file of the tokenizer of a workdir or model folder; that of SentencePiece where there is none."""
    return folder / (JSON_FILE if (folder / JSON_FILE).exists() else FILE)


def load_tokenizer(model: bytes | str | Path) -> TextTokenizer:
    """Loads a tokenizer from its serialized form or the path of that; raises UserError for an invalid one."""
    hint = f"should be a {FILE}, made by mmjax prepare"
    name = "text tokenizer" if isinstance(model, bytes) else str(model)
    try:
        proto = model if isinstance(model, bytes) else read_file(Path(model), MAX_TOKENIZER)
        if file_name(proto) == JSON_FILE:
            return _load_shifted(name, proto)
        tokenizer = Tokenizer(proto)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}; {hint}") from error
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{name}: not a SentencePiece model; {hint}") from error
    if tokenizer.size <= MASK or tokenizer._processor.id_to_piece(MASK) != MASK_PIECE:
        raise UserError(f"{name}: token {MASK} is not {MASK_PIECE}; {hint}")
    return tokenizer


def _load_shifted(name: str, proto: bytes) -> TextTokenizer:
    from mmjax.data.tokenizer_json import ShiftedTokenizer  # which imports from here

    try:
        return ShiftedTokenizer(proto)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust is no Exception
        raise UserError(
            f"{name}: is no tokenizer of a pretrained text encoder, or damaged: {' '.join(str(error).split())[:200]}"
        ) from None


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> bytes:
    """Trains a SentencePiece model by byte pair encoding (Sennrich et al. 2016) with byte fallback.

    Deterministic; of the first MAX_CAPTIONS captions. The special ids are those of mmjax.types.

    Args:
        vocabulary: maximal number of token ids.

    Raises:
        UserError: where all captions are empty, or the vocabulary is too small for their characters.
    """
    texts = (_plain(caption)[:MAX_CAPTION_LENGTH] for caption in itertools.islice(captions, MAX_CAPTIONS))
    nonempty = (text for text in texts if text.strip())
    first = next(nonempty, None)
    if first is None:
        raise UserError("text tokenizer: the training captions are all empty; at least one with text is needed")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], nonempty),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="nmt_nfkc",
            pad_id=PADDING,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            user_defined_symbols=[MASK_PIECE],
            max_sentence_length=4 * MAX_CAPTION_LENGTH,
            num_threads=2,  # fixed: the order of floating-point sums depends on it
            minloglevel=3,
        )
    except RuntimeError as error:
        reason = " ".join((str(error).rpartition("] ")[2] or str(error)).split())
        raise UserError(f"text.vocabulary: {vocabulary} does not suit the captions: {reason}") from error
    return model.getvalue()


def _plain(text: str) -> str:
    """Joins lines, and replaces lone surrogates (from broken JSON), which SentencePiece rejects."""
    return " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").splitlines())
