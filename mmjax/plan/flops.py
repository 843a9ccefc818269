"""Floating-point operations of a program, from the shapes of its matrix products and convolutions."""

import math
from collections.abc import Iterator
from typing import Any

import jax


def count(closed: Any) -> float:
    """The operations of a traced program (from jax.make_jaxpr), 2 for each multiply-add.

    Loops count by their trip count; elementwise operations are ignored.

    Raises:
        ValueError: for a matrix product in a loop of unknown trip count.
    """
    return _count(closed.jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, list(_inner(equation.params))
        if name == "dot_general":
            total += _product(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "scan":
            total += equation.params["length"] * _count(equation.params["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(map(_count, inner), default=0.0)
        elif name == "pallas_call":  # a kernel runs once for each point of its grid
            total += math.prod(equation.params["grid_mapping"].grid) * sum(map(_count, inner))
        elif name == "while" and any(map(_count, inner)):
            raise ValueError("cannot count the operations of a while loop of unknown trip count")
        else:
            total += sum(map(_count, inner))
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs inside of an equation: of a call, the branches of a cond, the body of a loop."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _product(equation: Any) -> float:
    left, _ = (variable.aval.shape for variable in equation.invars)
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    """Each output sums over the kernel and the input's features; zeros of a dilated input are not counted."""
    kernel, params = equation.invars[1].aval.shape, equation.params
    _, features, *window = (kernel[axis] for axis in params["dimension_numbers"].rhs_spec)
    outputs = math.prod(equation.outvars[0].aval.shape)
    return 2.0 * outputs * features * math.prod(window) / math.prod(params["lhs_dilation"])


def traced(function: Any, *arguments: Any) -> float:
    """The operations of one call of a function, with arrays or their shapes."""
    return count(jax.make_jaxpr(function)(*arguments))
