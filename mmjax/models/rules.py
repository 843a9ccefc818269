"""Where the parameters of layers lie on the mesh: (pattern of the whole name, mesh axis of each array axis).

The tables of a model's parts, each beside its part, are put together by `joined`.
"""

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

_STACKED = r"(.*/)?block/.*"
_ALONE = rf"(?!{_STACKED}).*"
# Of transformer layers that lie in one array each, nn/transformer.Stack.
STACK: Rules = (
    (_STACKED + r"attention/(q|k|v)/kernel", (None, "fsdp", "model", None)),
    (_STACKED + r"attention/(q|k|v)/bias", (None, "model", None)),
    (_STACKED + r"attention/out/kernel", (None, "model", None, "fsdp")),
    (_STACKED + r"mlp_in/kernel", (None, "fsdp", "model")),
    (_STACKED + r"mlp_in/bias", (None, "model")),
    (_STACKED + r"mlp_out/kernel", (None, "model", "fsdp")),
    (_STACKED + r"(bias|scale)", (None, None)),
)
# Of one whose parameters are its own.
_LAYER: Rules = (
    (_ALONE + r"attention/(q|k|v)/kernel", ("fsdp", "model", None)),
    (_ALONE + r"attention/(q|k|v)/bias", ("model", None)),
    (_ALONE + r"attention/out/kernel", ("model", None, "fsdp")),
    (_ALONE + r"mlp_in/kernel", ("fsdp", "model")),
    (_ALONE + r"mlp_in/bias", ("model",)),
    (_ALONE + r"mlp_out/kernel", ("model", "fsdp")),
)
# Of nn/pooling.AttentionPooling.
POOLING: Rules = (*_LAYER, (r".*query", ("fsdp",)))
_VECTORS: Rules = ((r".*(bias|scale)", (None,)),)


def joined(*tables: Rules) -> Rules:
    """The rules of all tables, each once, in this order, and those of all other biases and scales behind them."""
    return tuple(dict.fromkeys(rule for table in (*tables, _VECTORS) for rule in table))
