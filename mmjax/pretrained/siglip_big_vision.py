"""SigLIP in the names and layout of big_vision's npz files, whose layers may be stacked along a first axis.

The names are those of github.com/google-research/big_vision: models/proj/image_text/two_towers.py, models/vit.py and
models/proj/image_text/text_transformer.py.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.pretrained.names import Row, Table
from mmjax.pretrained.npz_files import NPZ, read_npz
from mmjax.pretrained.safetensors_files import CONFIG
from mmjax.pretrained.weights import weights_in
from mmjax.terminal import printable

IMAGE, TEXT = "params/img", "params/txt"
TOWERS = {"vision": f"{IMAGE}/Transformer", "text": f"{TEXT}/Encoder_0"}
_ATTENTION, _MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"


def _layer(name: str, leaf: str, kernel: str, bias: str) -> list[tuple[str, str, str]]:
    return [(f"{name}/kernel", f"{leaf}/kernel", kernel), (f"{name}/bias", f"{leaf}/bias", bias)]


def _norm(name: str, leaf: str) -> list[tuple[str, str, str]]:
    return [(f"{name}/{each}", f"{leaf}/{each}", "d") for each in ("scale", "bias")]


def _block(attention: str) -> list[tuple[str, str, str]]:
    """Names, parameters and layouts of attention and an MLP, which those of JAX and of mmjax have in common."""
    rows = []
    for name, leaf in (("query", "q"), ("key", "k"), ("value", "v")):
        rows += _layer(f"{_ATTENTION}/{name}", f"{attention}/{leaf}", "d h k", "h k")
    rows += _layer(f"{_ATTENTION}/out", f"{attention}/out", "h k d", "d")
    for i, leaf in enumerate(("mlp_in", "mlp_out")):
        rows += _layer(f"{_MLP}/Dense_{i}", leaf, "i o", "o")
    return rows


def _tower(tower: str, is_stacked: bool) -> Table:
    block = [*_norm("LayerNorm_0", "norm_self"), *_norm("LayerNorm_1", "norm_mlp"), *_block("self_attention")]
    layers = f"{TOWERS[tower]}/encoderblock" + ("" if is_stacked else "_{}")
    return (
        *(
            Row(f"{layers}/{name}", f"{tower}/stack/block/{leaf}", f"n {layout}" if is_stacked else layout)
            for name, leaf, layout in block
        ),
        *(Row(f"{TOWERS[tower]}/{name}", f"{tower}/{leaf}", "d") for name, leaf, _ in _norm("encoder_norm", "norm")),
    )


def table(config: Any) -> Table:
    """The tensors of the parameters."""
    head = [("probe", "query", "1 1 d -> d"), *_norm("LayerNorm_0", "norm"), *_block("attention")]
    embedding = _layer("embedding", "embedding/patches", "y x c o", "o")
    return (
        Row(f"{TEXT}/Embed_0/embedding", "text/embedding/words", "v d"),
        Row(f"{TEXT}/pos_embedding", "text/embedding/positions", "1 n d -> n d"),
        *_tower("text", config.stacked_text),
        *(Row(f"{TEXT}/{name}", f"text/{leaf}", to) for name, leaf, to in _layer("head", "projection", "i o", "o")),
        *(Row(f"{IMAGE}/{name}", f"vision/{leaf}", layout) for name, leaf, layout in embedding),
        Row(f"{IMAGE}/pos_embedding", "vision/embedding/positions", "1 n d -> n d"),
        *_tower("vision", config.stacked_vision),
        *(Row(f"{IMAGE}/MAPHead_0/{name}", f"vision/head/{leaf}", layout) for name, leaf, layout in head),
        Row("params/t", "logit_scale", "1"),
        Row("params/b", "logit_bias", "1"),
    )


def missing_config(folder: Path) -> str:
    """What config.json a folder lacks that holds a SigLIP of big_vision; "": it holds something else."""
    for path in weights_in(folder):
        shapes = {name: each.shape for name, each in read_npz(path).items()} if path.suffix == NPZ else {}
        try:
            settings = {"model_type": "siglip", "text_config": _text(shapes), "vision_config": _vision(shapes)}
        except (KeyError, ValueError):  # it is something else
            continue
        return f"{folder}: has no {CONFIG}; for {printable(path.name)} add one: {json.dumps(settings)}"
    return ""


def _text(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    words, _ = shapes[f"{TEXT}/Embed_0/embedding"]
    _, positions, _ = shapes[f"{TEXT}/pos_embedding"]
    _, projection = shapes[f"{TEXT}/head/kernel"]
    return _sizes(shapes, "text") | {
        "vocab_size": words,
        "max_position_embeddings": positions,
        "projection_size": projection,
    }


def _vision(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    patch, *_ = shapes[f"{IMAGE}/embedding/kernel"]
    _, patches, _ = shapes[f"{IMAGE}/pos_embedding"]
    return _sizes(shapes, "vision") | {"patch_size": patch, "image_size": math.isqrt(patches) * patch}


def _sizes(shapes: Mapping[str, tuple[int, ...]], tower: str) -> dict[str, int]:
    """The sizes of the blocks of a tower."""
    layer = re.compile(rf"{TOWERS[tower]}/encoderblock(_\d+)?/{_MLP}/Dense_0/kernel")
    found = [shape for name, shape in shapes.items() if layer.fullmatch(name)]
    if not found:
        raise KeyError(tower)
    *stacked, width, hidden = found[0]
    query = re.compile(rf"{TOWERS[tower]}/encoderblock(_0)?/{_ATTENTION}/query/kernel")
    (*_, heads, _), *_ = (shape for name, shape in shapes.items() if query.fullmatch(name))
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": stacked[0] if stacked else len(found),
        "num_attention_heads": heads,
    }
