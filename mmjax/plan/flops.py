"""Floating-point operations of a program, counted from the shapes of its matrix products and convolutions."""

import math
from collections.abc import Iterator
from typing import Any

import jax


def count(closed: Any) -> float:
    """Operations of a traced program (what jax.make_jaxpr gives): 2 for each multiplication with its addition.

    Loops count as often as they turn; elementwise operations are left out, which are few beside these.

    Raises:
        ValueError: for a matrix product in a loop that turns an unknown number of times.
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
        elif name == "pallas_call":  # a kernel runs once for each place of its grid
            total += math.prod(equation.params["grid_mapping"].grid) * sum(map(_count, inner))
        elif name == "while" and any(map(_count, inner)):
            raise ValueError("cannot count the products of a loop that turns an unknown number of times")
        else:
            total += sum(map(_count, inner))
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs inside of an operation: of a call, the branches of a choice, the body of a loop."""
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
    """Each output sums over the window and the input's features; zeros spread between the inputs are not counted."""
    kernel, params = equation.invars[1].aval.shape, equation.params
    _, features, *window = (kernel[axis] for axis in params["dimension_numbers"].rhs_spec)
    outputs = math.prod(equation.outvars[0].aval.shape)
    return 2.0 * outputs * features * math.prod(window) / math.prod(params["lhs_dilation"])


def traced(function: Any, *arguments: Any) -> float:
    """Operations of one call of a function, of arrays or their shapes."""
    return count(jax.make_jaxpr(function)(*arguments))
