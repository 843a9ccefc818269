"""Folders in Hugging Face's layout: small random weights of transformers with tokenizers of whole words."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, processors

REFERENCES = Path(__file__).parents[1] / "references"
WORDS = ["a", "photo", "of", "cat", "dog", "horse", "."]
SCENES = ["a", "small", "large", "red", "green", "blue", "circle", "square", "ring", "left", "right", "of", "above"]
PIXELS = {"size": {"height": 12, "width": 12}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
# Special tokens by family with their ids, those that begin and end a text, and what tokenizer_config.json says.
TOKENIZERS: dict[str, tuple[dict[str, int], str, str, dict[str, Any]]] = {
    "bert": ({"<pad>": 0, "<unk>": 1, "<cls>": 2, "<sep>": 3}, "<cls>", "<sep>",
             {"pad_token": "<pad>", "sep_token": "<sep>", "do_lower_case": True}),
    "clip": ({"<unk>": 1, "<start>": 35, "<end>": 36}, "<start>", "<end>",
             {"pad_token": "<end>", "eos_token": "<end>"}),
    "siglip": ({"</s>": 1, "<unk>": 2}, "", "</s>", {"pad_token": "</s>", "eos_token": "</s>"}),
    "t5": ({"<pad>": 0, "</s>": 1, "<unk>": 2}, "", "</s>", {"pad_token": "<pad>", "eos_token": "</s>"}),
}  # fmt: skip
TOKENIZERS |= {"clip_text": TOKENIZERS["clip"], "umt5": TOKENIZERS["t5"]}


def write_tokenizer(
    folder: Path, special: dict[str, int], begin: str = "", end: str = "", words: Sequence[str] = WORDS, **settings: Any
) -> None:
    """Writes a tokenizer of whole words, whose special tokens have these ids."""
    vocabulary = special | {word: 10 + i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    pieces = [(name, special[name]) for name in (begin, end) if name]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, (begin, "$A", end))), special_tokens=pieces
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def copied(folder: Path, name: str, words: Sequence[str] = SCENES) -> Path:
    """A copy of a reference in a folder of its name, with a tokenizer."""
    special, begin, end, settings = TOKENIZERS[name]
    shutil.copytree(REFERENCES / name, folder / name)
    write_tokenizer(folder / name, special, begin, end, words, **settings)
    return folder / name


def with_settings(folder: Path, name: str, **settings: Any) -> Path:
    """A copy of a reference in a folder of its name, with changes to its config.json."""
    copy = folder / name
    shutil.copytree(REFERENCES / name, copy, ignore=shutil.ignore_patterns("reference.safetensors"))
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | settings))
    return copy
