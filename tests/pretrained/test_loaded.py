"""mmjax.load of folders in Hugging Face's layout: tokenizers, embeddings, zero-shot classification."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from folders import PIXELS, REFERENCES, write_tokenizer
from messages import error_message
from tokenizers import normalizers

import mmjax
from mmjax.data.tokenizer_json import load_json_tokenizer
from mmjax.export import PretrainedDualEncoder, PretrainedImageEncoder, PretrainedTextEncoder
from mmjax.pretrained.pooling import Pooling


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
    ids, mask = tokenizer.encode_with_mask(["A photo of cat", "", "dog \ud800", "a a a a a a a a"], 7)
    assert ids.dtype == np.int32
    assert ids.tolist() == [
        [2, 10, 11, 12, 13, 3, 0],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 14, 1, 3, 0, 0, 0],
        [2, 10, 10, 10, 10, 10, 3],
    ]
    assert mask.sum(axis=1).tolist() == [6, 2, 4, 7]
    assert tokenizer.length("a a a a a a a a") == 10
    assert tokenizer.decode(ids[:1]) == ["a photo of cat"]
    assert "no room" in error_message(tokenizer.encode, ["a"], 2)
    tokenizer = load_json_tokenizer(clip)  # its padding is the token of the end
    ids, mask = tokenizer.encode_with_mask(["a dog"], 6)
    assert ids.tolist() == [[35, 10, 14, 36, 36, 36]] and mask.tolist() == [[True] * 4 + [False] * 2]


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


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def test_padding_is_known_by_its_place_and_not_by_its_id(clip: Path, bert: Path) -> None:
    change(clip / "tokenizer_config.json", padding_side="left")
    ids, mask = load_json_tokenizer(clip).encode_with_mask(["a dog"], 6)
    assert ids.tolist() == [[36, 36, 35, 10, 14, 36]] and mask.tolist() == [[False] * 2 + [True] * 4]
    ids, mask = load_json_tokenizer(bert).encode_with_mask(["a <pad> dog"], 7)
    assert ids.tolist() == [[2, 10, 0, 14, 3, 0, 0]] and mask.sum() == 5


def test_a_tokenizer_with_another_end_of_text(clip: Path) -> None:
    special = {"<unk>": 1, "<start>": 35, "<end>": 34}
    write_tokenizer(clip, special, "<start>", "<end>", pad_token="<end>", eos_token="<end>")
    assert "eos_token_id 36" in error_message(mmjax.load(clip).embed_text, ["a"])


def test_ids_beyond_the_embedding_that_only_texts_show(bert: Path) -> None:
    content = json.loads((bert / "tokenizer.json").read_text())
    content["post_processor"]["special_tokens"]["<cls>"]["ids"] = [9999]
    (bert / "tokenizer.json").write_text(json.dumps(content))
    assert "9999" in error_message(mmjax.load(bert).embed_text, ["a"])


def test_a_tokenizer_at_which_the_library_panics(bert: Path) -> None:
    change(bert / "tokenizer.json", normalizer={"precompiled_charsmap": "AAAA", "type": "Precompiled"})
    assert "is no tokenizer, or damaged" in error_message(load_json_tokenizer, bert)


def test_case_as_the_settings_say(bert: Path) -> None:
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    for lowercase, lower, expected in ((True, False, 1), (False, True, 14), (True, None, 14)):
        change(bert / "tokenizer.json", normalizer={**normalizer, "lowercase": lowercase})
        change(bert / "tokenizer_config.json", do_lower_case=lower)
        assert load_json_tokenizer(bert).encode(["DÓG"], 4).tolist() == [[2, expected, 3, 0]]


@pytest.mark.parametrize("mode", ["mean", "max", "cls"])
def test_pooling_of_texts_with_padding_on_the_left_and_of_nothing(mode: str) -> None:
    tokens = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    mask = jnp.array([[False, True, True], [False] * 3])
    pooled = Pooling(mode, False)(tokens, mask)
    assert pooled[0].tolist() == {"mean": [3.0, 4.0], "max": [4.0, 5.0], "cls": [2.0, 3.0]}[mode]
    assert np.isfinite(pooled[1]).all()


@pytest.mark.parametrize(
    ("file", "values", "word"),
    [
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ("sentence_bert_config.json", {"max_seq_length": "8"}, "max_seq_length"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name"),
    ],
)
def test_options_of_sentence_transformers_that_would_change_embeddings(
    bert: Path, file: str, values: dict[str, Any], word: str
) -> None:
    (bert / "modules.json").write_text(
        json.dumps([{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": "1"}])
    )
    (bert / "1").mkdir()
    change(bert / "1" / "config.json", pooling_mode_mean_tokens=True)
    assert np.isfinite(mmjax.load(bert).embed_text(["a dog"])).all()
    change(bert / file, **values)
    assert word in error_message(mmjax.load(bert).embed_text, ["a dog"])


def test_values_that_do_not_fit(clip: Path, tmp_path: Path) -> None:
    change(clip / "preprocessor_config.json", size={"height": 1, "width": 1})
    assert "smaller than a patch" in error_message(mmjax.load(clip).embed_image, [np.zeros((3, 3, 3), np.uint8)])
    config = json.loads((clip / "config.json").read_text())
    change(
        clip / "config.json",
        vision_config_dict={"hidden_act": "relu"},
        vision_config=config["vision_config"] | {"hidden_act": "gelu"},
    )
    assert "vision_config_dict: hidden_act" in error_message(mmjax.load, clip)
    for name, values, word in (
        ("clip_text", {"projection_dim": "a"}, "projection_dim"),
        ("t5", {"relative_attention_num_buckets": 2}, "relative_attention_num_buckets"),
        ("t5", {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 2}, "max_distance 2"),
        ("vit", {"num_channels": 1}, "num_channels"),
    ):
        folder = tmp_path / f"{name}-{word[:4]}"
        shutil.copytree(REFERENCES / name, folder, dirs_exist_ok=True)
        change(folder / "config.json", **values)
        assert word in error_message(mmjax.load, folder)
