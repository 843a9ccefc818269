"""mmjax.load of folders in Hugging Face's layout: tokenizers, embeddings, zero-shot classification."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from messages import error_message
from tokenizers import models, normalizers, pre_tokenizers, processors

import mmjax
from mmjax.data.tokenizer_json import load_json_tokenizer
from mmjax.export import PretrainedDualEncoder, PretrainedImageEncoder, PretrainedTextEncoder

REFERENCES = Path(__file__).parents[1] / "references"
WORDS = ["a", "photo", "of", "cat", "dog", "horse", "."]
PIXELS = {"size": {"height": 12, "width": 12}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}


def write_tokenizer(folder: Path, special: dict[str, int], begin: str = "", end: str = "", **settings: Any) -> None:
    """Writes a tokenizer of whole words, whose special tokens have these ids."""
    vocabulary = special | {word: 10 + i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    pieces = [(name, special[name]) for name in (begin, end) if name]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, (begin, "$A", end))), special_tokens=pieces
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(name="bert")
def bert_folder(tmp_path: Path) -> Path:
    shutil.copytree(REFERENCES / "bert", tmp_path / "bert")
    special = {"<pad>": 0, "<unk>": 1, "<cls>": 2, "<sep>": 3}
    tokens = {"pad_token": "<pad>", "sep_token": {"content": "<sep>"}, "do_lower_case": True}
    write_tokenizer(tmp_path / "bert", special, "<cls>", "<sep>", **tokens, model_max_length=int(1e30))
    return tmp_path / "bert"


@pytest.fixture(name="clip")
def clip_folder(tmp_path: Path) -> Path:
    shutil.copytree(REFERENCES / "clip", tmp_path / "clip")
    special = {"<unk>": 1, "<start>": 35, "<end>": 36}
    write_tokenizer(tmp_path / "clip", special, "<start>", "<end>", pad_token="<end>", eos_token="<end>")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return tmp_path / "clip"


def test_tokens_padding_and_their_mask(bert: Path, clip: Path) -> None:
    tokenizer = load_json_tokenizer(bert)
    assert (tokenizer.size, tokenizer.padding, tokenizer.end, tokenizer.longest) == (17, 0, 3, 0)
    ids = tokenizer.encode(["A photo of cat", "", "dog \ud800", "a a a a a a a a"], 7)
    assert ids.dtype == np.int32
    assert ids.tolist() == [
        [2, 10, 11, 12, 13, 3, 0],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 14, 1, 3, 0, 0, 0],
        [2, 10, 10, 10, 10, 10, 3],
    ]
    assert tokenizer.mask(ids).sum(axis=1).tolist() == [6, 2, 4, 7]
    assert tokenizer.length("a a a a a a a a") == 10
    assert tokenizer.decode(ids[:1]) == ["a photo of cat"]
    assert "no room" in error_message(tokenizer.encode, ["a"], 2)
    tokenizer = load_json_tokenizer(clip)  # its padding is the token of the end
    ids = tokenizer.encode(["a dog"], 6)
    assert ids.tolist() == [[35, 10, 14, 36, 36, 36]] and tokenizer.mask(ids).sum() == 4


def test_padding_of_the_left_side_and_lower_case_of_the_tokenizer(bert: Path) -> None:
    settings = json.loads((bert / "tokenizer_config.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(bert / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase()])
    tokenizer.save(str(bert / "tokenizer.json"))
    (bert / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    ids = load_json_tokenizer(bert).encode(["DOG"], 5)
    assert ids.tolist() == [[0, 0, 2, 14, 3]]


def test_special_tokens_that_no_file_names(bert: Path) -> None:
    write_tokenizer(bert, {"[PAD]": 5, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "<unk>": 4}, "[CLS]", "[SEP]")
    tokenizer = load_json_tokenizer(bert)
    assert (tokenizer.padding, tokenizer.end) == (5, 3)
    assert tokenizer.encode(["a"], 4).tolist() == [[2, 10, 3, 5]]


def test_damaged_tokenizers(bert: Path) -> None:
    path, beside = bert / "tokenizer.json", bert / "tokenizer_config.json"
    settings = json.loads(beside.read_text())
    for change, word in (
        ({"pad_token": "<nothing>"}, "<nothing>"),
        ({"pad_token": 3}, "pad_token"),
        ({"sep_token": None}, "eos_token"),
        ({"padding_side": "top"}, "padding_side"),
    ):
        beside.write_text(json.dumps(settings | change))
        assert word in error_message(load_json_tokenizer, bert)
    beside.write_text("[3]")
    assert "tokenizer" in error_message(load_json_tokenizer, bert)
    beside.write_text(json.dumps(settings))
    for content in ("", "{}", "[]", path.read_text()[:-50]):
        path.write_text(content)
        assert "tokenizer.json: is no tokenizer" in error_message(load_json_tokenizer, bert)
    path.unlink()
    assert "tokenizer.json: no such file" in error_message(load_json_tokenizer, bert)


def test_a_tokenizer_of_another_model(bert: Path) -> None:
    special = {"<pad>": 0, "<unk>": 1, "<cls>": 2, "<sep>": 37}
    write_tokenizer(bert, special, "<cls>", "<sep>", pad_token="<pad>", sep_token="<sep>")
    model = mmjax.load(bert)
    message = error_message(model.embed_text, ["a"])
    assert "ids up to 37" in message and "embedding of 37" in message


def write_pooling(folder: Path, mode: str, *kinds: str) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{mode}": True, "pooling_mode_x": False})
    )


def test_text_embeddings_by_the_pooling_of_the_folder(bert: Path) -> None:
    texts = ["a photo of dog", "cat"]
    model = mmjax.load(bert)
    assert type(model) is PretrainedTextEncoder and model.longest == 11
    tokens, mask = model.encode_text(texts)
    assert tokens.shape == (2, 11, 15) and mask.sum(axis=1).tolist() == [6, 3]
    own = model.embed_text(texts)
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, rtol=1e-5)
    for mode, wanted in (
        ("mean_tokens", [row[kept].mean(axis=0) for row, kept in zip(tokens, mask, strict=True)]),
        ("max_tokens", [row[kept].max(axis=0) for row, kept in zip(tokens, mask, strict=True)]),
        ("cls_token", tokens[:, 0]),
    ):
        write_pooling(bert, mode, "Transformer", "Pooling")
        np.testing.assert_allclose(mmjax.load(bert).embed_text(texts), wanted, rtol=1e-4, atol=1e-5)
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    assert mmjax.load(bert).longest == 5


def test_pooling_that_is_not_supported(bert: Path) -> None:
    write_pooling(bert, "weightedmean_tokens", "Transformer", "Pooling", "Normalize")
    assert "weightedmean" in error_message(mmjax.load(bert).embed_text, ["a"])
    write_pooling(bert, "mean_tokens", "Transformer", "Pooling", "Dense")
    assert "Dense" in error_message(mmjax.load(bert).embed_text, ["a"])
    (bert / "modules.json").write_text((bert / "modules.json").read_text().replace("1_Pooling", "../x"))
    write = (bert / "modules.json").read_text().replace("Dense", "Normalize")
    (bert / "modules.json").write_text(write)
    assert "not in its folder" in error_message(mmjax.load(bert).embed_text, ["a"])


def test_zero_shot_classification(clip: Path) -> None:
    model = mmjax.load(clip)
    assert type(model) is PretrainedDualEncoder
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)]
    names = ["cat", "dog", "horse"]
    probabilities = model.classify(images, names, "a photo of a {} .")
    assert probabilities.shape == (2, 3) and np.allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    texts = model.embed_text([f"a photo of a {name} ." for name in names])
    logits = np.exp(np.asarray(model.params["logit_scale"])) * model.embed_image(images) @ texts.T
    wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-4)
    assert "template" in error_message(model.classify, images, names, "a photo")
    assert "uint8" in error_message(model.embed_image, [np.zeros((12, 12, 3), np.float32)])
    assert "at least one" in error_message(model.embed_image, [])


def test_image_features(tmp_path: Path) -> None:
    shutil.copytree(REFERENCES / "dinov2_with_registers", tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    model = mmjax.load(tmp_path / "dino")
    assert type(model) is PretrainedImageEncoder and not hasattr(model, "embed_text")
    images = np.zeros((1, 5, 7, 3), np.uint8)
    assert model.encode_image(images).shape == (1, 1 + 3 + 9, 15) and model.embed_image(images).shape == (1, 15)
    assert "has no steps" in error_message(mmjax.load, tmp_path / "dino", 3)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"")
    assert "is a pickle" in error_message(mmjax.load, path) and "save_file" in error_message(mmjax.load, path)
