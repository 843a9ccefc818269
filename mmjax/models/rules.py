"""Sharding rules: (pattern of the full parameter name, mesh axis of each array axis)."""

import re
from collections.abc import Iterable

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

_STACKED = r"(.*/)?block/.*"
_ALONE = rf"(?!{_STACKED}).*"
_LAYER: Rules = (
    (r"attention/(q|k|v)/kernel", ("fsdp", "model", None)),
    (r"attention/(q|k|v)/bias", ("model", None)),
    (r"attention/out/kernel", ("model", None, "fsdp")),
    (r"mlp_in/kernel", ("fsdp", "model")),
    (r"mlp_in/bias", ("model",)),
    (r"mlp_out/kernel", ("model", "fsdp")),
)
_VECTORS: Rules = ((r"(bias|scale)", (None,)),)
# Layers of nn/transformer.Stack, whose parameters are stacked along the first axis.
STACK: Rules = tuple((_STACKED + name, (None, *axes)) for name, axes in (*_LAYER, *_VECTORS))
# nn/transformer.AttentionPooling.
POOLING: Rules = (*((_ALONE + name, axes) for name, axes in _LAYER), (r".*query", ("fsdp",)))


def joined(*tables: Rules) -> Rules:
    """The rules of all tables in order, without duplicates, and last those of all other biases and scales."""
    rest = ((rf".*{name}", axes) for name, axes in _VECTORS)
    return tuple(dict.fromkeys((*(rule for table in tables for rule in table), *rest)))


def used(table: Rules, names: Iterable[str]) -> Rules:
    """The rules of a table that parameters of these names need."""
    first = (next((rule for rule in table if re.fullmatch(rule[0], name)), None) for name in names)
    found = {rule for rule in first if rule}
    return tuple(rule for rule in table if rule in found)


# Of the transformers in mmjax/pretrained.
PRETRAINED: Rules = joined(
    (
        (r".*block/gate/kernel", (None, "fsdp", "model")),
        (r".*block/gate/bias", (None, "model")),
        (r".*block/layer_scale_(self|mlp)", (None, None)),
        (r".*block/relative_bias", (None, None, None)),
        (r".*words", (None, "fsdp")),
        (r".*patches/kernel", (None, None, None, "fsdp")),
        (r".*(classifier|pooler|projection)/kernel", ("fsdp", None)),
        (r".*(kinds|positions|registers|relative_bias)", (None, None)),
        (r".*(class_token|mask_token)", (None,)),
        (r"logit_(bias|scale)", ()),
    ),
    STACK,
    POOLING,
)
