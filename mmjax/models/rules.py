"""Sharding rules: (pattern of the full parameter name, mesh axis of each array axis)."""

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
