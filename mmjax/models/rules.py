"""Sharding rules: (pattern of the full parameter name, mesh axis of each array axis)."""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

_STACKED = r"(.*/)?block/.*"
_ALONE = rf"(?!{_STACKED}).*"
# Layers of nn/transformer.Stack, whose parameters are stacked along the first axis.
STACK: Rules = (
    (_STACKED + r"attention/(q|k|v)/kernel", (None, "fsdp", "model", None)),
    (_STACKED + r"attention/(q|k|v)/bias", (None, "model", None)),
    (_STACKED + r"attention/out/kernel", (None, "model", None, "fsdp")),
    (_STACKED + r"mlp_in/kernel", (None, "fsdp", "model")),
    (_STACKED + r"mlp_in/bias", (None, "model")),
    (_STACKED + r"mlp_out/kernel", (None, "model", "fsdp")),
    (_STACKED + r"(bias|scale)", (None, None)),
)
# A single layer.
_LAYER: Rules = (
    (_ALONE + r"attention/(q|k|v)/kernel", ("fsdp", "model", None)),
    (_ALONE + r"attention/(q|k|v)/bias", ("model", None)),
    (_ALONE + r"attention/out/kernel", ("model", None, "fsdp")),
    (_ALONE + r"mlp_in/kernel", ("fsdp", "model")),
    (_ALONE + r"mlp_in/bias", ("model",)),
    (_ALONE + r"mlp_out/kernel", ("model", "fsdp")),
)
# nn/pooling.AttentionPooling.
POOLING: Rules = (*_LAYER, (r".*query", ("fsdp",)))
_VECTORS: Rules = ((r".*(bias|scale)", (None,)),)


def joined(*tables: Rules) -> Rules:
    """The rules of all tables in order, without duplicates, and last those of all other biases and scales."""
    return tuple(dict.fromkeys(rule for table in (*tables, _VECTORS) for rule in table))
