"""Kernels as matrices: which of their axes are inputs, and which are outputs."""

from typing import Any

import jax

from mmjax.types import leaf_name

Axes = tuple[tuple[int, ...], tuple[int, ...]]  # of the inputs and of the outputs, in order


def is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether a parameter belongs to a scanned stack, "block", and has the layers as its first axis."""
    return "block" in leaf_name(path).split("/")


def matrix_axes(path: tuple[Any, ...], leaf: Any) -> Axes | None:
    """The input and output axes of a kernel; None for other parameters. The layers of a stack are matrices each."""
    *modules, name = leaf_name(path).split("/")
    if name != "kernel":
        return None
    own = range(is_stacked(path), leaf.ndim)
    heads = modules[-1:] in (["q"], ["k"], ["v"])
    split = 1 if heads else len(own) - 1
    return tuple(own[:split]), tuple(own[split:])


def kernels(params: Any) -> dict[str, Axes]:
    """The axes of all kernels by name."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {leaf_name(path): axes for path, leaf in leaves if (axes := matrix_axes(path, leaf))}
