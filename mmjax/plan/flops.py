"""Floating-point operations of a program, from the shapes of its matrix products and convolutions."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def traced(function: Callable[..., Any], *arguments: Any) -> float:
    """The operations of one call of a function with arrays or their shapes, 2 for each multiply-add.

    Loops count by their trip count; elementwise operations are ignored.

    Raises:
        ValueError: for a matrix product in a loop of unknown trip count.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(map(_operations, jaxpr.eqns), start=0.0)


def _operations(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    inner = [_count(jaxpr) for jaxpr in _inner(params)]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        # Each output sums over the kernel and the input's features; zeros of a dilated input are not counted.
        _, *summed = (equation.invars[1].aval.shape[axis] for axis in params["dimension_numbers"].rhs_spec)
        outputs = math.prod(equation.outvars[0].aval.shape)
        return 2.0 * outputs * math.prod(summed) / math.prod(params["lhs_dilation"])
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("cannot count the operations of a while loop of unknown trip count")
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "pallas_call":  # a kernel runs once for each point of its grid
        times = math.prod(params["grid_mapping"].grid)
    return times * sum(inner, start=0.0)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs inside of an equation: of a call, the branches of a cond, the body of a loop."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
