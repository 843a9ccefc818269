"""Text tokenizers of pretrained models: tokenizer.json, read by the `tokenizers` library."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from mmjax.data.text import JSON_FILE, MAX_TOKENIZER
from mmjax.files import read_file
from mmjax.types import PADDING, UserError

SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")  # the later one counts
# Special tokens where no file names them, as in the files of the first BERT and T5: the defaults of transformers.
PADDINGS, ENDS = ("[PAD]", "<pad>"), ("[SEP]", "</s>")
NO_LIMIT = 1 << 30  # stands for no limit in model_max_length, which is then about 1e30


@dataclass(frozen=True)
class TokenizerSettings:
    """What the files beside tokenizer.json say.

    Attributes:
        padding, end: the tokens of padding and of the end of a text.
        side: on which padding is added, "right" or "left".
        lower: texts are put in lower case first; None: as the tokenizer does by itself.
        longest: tokens of a text; 0: any number.
    """

    padding: str
    end: str
    side: str = "right"
    lower: bool | None = None
    longest: int = 0


class JsonTokenizer:
    """Encodes and decodes texts, as data.text.Tokenizer does.

    Attributes:
        size: one more than the largest token id.
        padding, end: ids of the tokens of padding and of the end of a text. They may be the same.
        longest: tokens of a text; 0: any number.
    """

    def __init__(self, content: str, settings: TokenizerSettings) -> None:
        import tokenizers  # slow to import

        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self._lock = threading.Lock()  # the library fails where one thread changes what another one uses
        self._settings = settings
        self.size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.longest = settings.longest
        self.padding = self._id(settings.padding)
        self.end = self._id(settings.end)
        self._special: int = self._tokenizer.num_special_tokens_to_add(False)

    def _id(self, token: str) -> int:
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"has no token {token!r}, which {SETTINGS[1]} names")
        return number

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b t"]:
        """The token ids of `encode_with_mask`."""
        return self.encode_with_mask(texts, length)[0]

    def encode_with_mask(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int32[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Encodes texts as int32 [b, length]: as many tokens as fit with those that begin and end a text, and padding.

        The mask is False on padding.

        Raises:
            UserError: where these alone do not fit.
        """
        if length <= self._special:
            raise UserError(
                f"length: {length} leaves no room beside the {self._special} tokens that begin and end a text"
            )
        settings, plain = self._settings, [self._plain(text) for text in texts]
        with self._lock:
            self._tokenizer.enable_truncation(length)
            self._tokenizer.enable_padding(
                direction=settings.side, pad_id=self.padding, pad_token=settings.padding, length=length
            )
            encodings = self._tokenizer.encode_batch(plain)
        ids = np.array([each.ids for each in encodings], np.int32).reshape(len(texts), length)
        return ids, np.array([each.attention_mask for each in encodings], np.bool_).reshape(len(texts), length)

    def length(self, text: str) -> int:
        """Number of tokens of a text, including those that begin and end it."""
        with self._lock:
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            return len(self._tokenizer.encode(self._plain(text)).ids)

    def decode(self, ids: Int[np.ndarray, "b t"]) -> list[str]:
        """Decodes each row without special tokens."""
        texts: list[str] = self._tokenizer.decode_batch(np.asarray(ids).tolist(), skip_special_tokens=True)
        return texts

    def serialized(self) -> bytes:
        """A tokenizer.json of it without files beside it: with its padding and its case."""
        import tokenizers

        alone = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        alone.no_truncation()
        alone.enable_padding(pad_id=self.padding, pad_token=self._settings.padding)  # on the right
        if self._settings.lower and '"lowercase":true' not in alone.to_str():
            parts = [tokenizers.normalizers.Lowercase(), *filter(None, [alone.normalizer])]
            alone.normalizer = tokenizers.normalizers.Sequence(parts)
        content: str = alone.to_str()
        return content.encode()

    def _plain(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # lone surrogates, from broken JSON
        return text.lower() if self._settings.lower else text


class ShiftedTokenizer:
    """The tokenizer of a pretrained text encoder for models of mmjax, in which 0 is padding: all ids are one higher.

    Padding is on the right. For attributes and methods see data.text.TextTokenizer.
    """

    padding = PADDING

    def __init__(self, proto: bytes) -> None:
        token = json.loads(proto)["padding"]["pad_token"]
        with silent():
            self._tokenizer = JsonTokenizer(proto.decode(), TokenizerSettings(token, token))
            ids, mask = self._tokenizer.encode_with_mask([""], self._tokenizer.length("") + 1)
        self.proto = proto
        self.size = self._tokenizer.size + 1
        self.end = int(ids[mask][-1]) + 1 if mask.any() else PADDING

    def encode(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "b t"]:
        """Encodes texts as int32 [b, length]; see JsonTokenizer.encode_with_mask."""
        ids, mask = self._tokenizer.encode_with_mask(texts, length)
        return np.where(mask, ids + 1, PADDING).astype(np.int32)

    def length(self, text: str) -> int:
        """Number of tokens of a text, including those that begin and end it."""
        return self._tokenizer.length(text)

    def decode(self, ids: Int[np.ndarray, "b t"]) -> list[str]:
        """Decodes each row without padding and special tokens."""
        return [self._tokenizer.decode(row[row != PADDING][None] - 1)[0] for row in np.asarray(ids)]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keeps the library, which writes a line of its own where it panics, from the standard error of the process."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, AttributeError, ValueError):  # where it is closed
            sys.stderr.flush()
            kept = os.dup(2)
            stack.callback(os.close, kept)
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), 2)
            stack.callback(os.dup2, kept, 2)
        yield


def load_json_tokenizer(folder: Path) -> JsonTokenizer:
    """Loads the tokenizer of a folder: tokenizer.json with the files beside it.

    Raises:
        UserError: where it is missing, damaged or incomplete.
    """
    path = folder / JSON_FILE
    try:
        content = read_file(path, MAX_TOKENIZER).decode()
        values = json.loads(content)
        read = [json.loads(read_file(folder / name, MAX_TOKENIZER)) for name in SETTINGS if (folder / name).exists()]
        settings = _settings({name: value for each in read for name, value in each.items()}, values, folder)
        with silent():
            tokenizer = JsonTokenizer(_with_case(content, values, settings), settings)
            tokenizer.length("a")  # what is broken may show only now
        return tokenizer
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; copy all files of the model, or save its tokenizer as fast") from None
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    # What the tokenizers library raises has no class of its own, and a panic of Rust is no Exception.
    except BaseException as error:
        raise UserError(f"{path}: is no tokenizer, or damaged: {' '.join(str(error).split())[:200]}") from None


def _with_case(content: str, values: Mapping[str, Any], settings: TokenizerSettings) -> str:
    """The tokenizer with the case of the settings, which BERT's normalizer follows."""
    normalizer = values.get("normalizer")
    if settings.lower is None or not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return content
    return json.dumps({**values, "normalizer": {**normalizer, "lowercase": settings.lower}})


def _settings(found: Mapping[str, Any], tokenizer: Mapping[str, Any], folder: Path) -> TokenizerSettings:
    special = [each["content"] for each in tokenizer.get("added_tokens", []) if each.get("special")]

    def token(names: Sequence[str], defaults: Sequence[str]) -> str:
        named = [found[name] for name in names if found.get(name)]
        named = [value.get("content") if isinstance(value, dict) else value for value in named]
        usable = named + [value for value in defaults if value in special]
        if not usable or not isinstance(usable[0], str):
            raise UserError(f"{folder / SETTINGS[1]}: {names[0]}: must be a token, and is missing")
        return usable[0]

    longest = found.get("model_max_length", 0)
    side = found.get("padding_side", "right")
    if side not in ("left", "right"):
        raise UserError(f"{folder / SETTINGS[1]}: padding_side: must be left or right, not {side!r}")
    normalizer = json.dumps(tokenizer.get("normalizer"))
    lowers, bert = '"Lowercase"' in normalizer, '"BertNormalizer"' in normalizer
    lower = found.get("do_lower_case")
    if not isinstance(lower, bool | None):
        raise UserError(f"{folder / SETTINGS[1]}: do_lower_case: must be true or false, not {lower!r}")
    return TokenizerSettings(
        token(("pad_token",), PADDINGS),
        token(("eos_token", "sep_token"), ENDS),
        side,
        lower if lower is None or bert or not lowers else None,
        int(longest) if 0 < longest < NO_LIMIT else 0,
    )
