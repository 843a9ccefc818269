"""Tables of tensor names: which tensor of a checkpoint is which parameter, in which layout, in both directions."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

_AXES = re.compile(r"\(([^)]*)\)|(\S+)")


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        tensor: name in the checkpoint. With "{}" in place of the number of a layer, the tensors of all layers are
            stacked along the first axis of the parameter.
        leaf: name of the parameter, as in `text/stack/block/mlp_in/kernel`.
        layout: axes of the tensor, those that are one axis there in parentheses, and axes of the parameter:
            "(h k) d -> d h k". The same on both sides where there is no arrow; without that of the layers.
        part: (i, n) for the i-th of n equal parts of the tensor along its first axis, as of a fused matrix.
    """

    tensor: str
    leaf: str
    layout: str
    part: tuple[int, int] = (0, 1)

    def tensors(self, leaf: tuple[int, ...]) -> list[str]:
        """Names of the tensors of a parameter of this shape."""
        return [self.tensor.format(i) for i in range(leaf[0])] if self.stacked else [self.tensor]

    @property
    def stacked(self) -> bool:
        """Whether the first axis of the parameter is that of the layers."""
        return "{}" in self.tensor

    def tensor_shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each tensor of a parameter of this shape."""
        groups, sizes = self._axes(leaf)
        shape = [math.prod(sizes[axis] for axis in group) for group in groups]
        return (shape[0] * self.part[1], *shape[1:]) if shape else ()

    def to_leaf(self, tensor: Shaped[np.ndarray, "..."], leaf: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
        """A view of a tensor as the parameter, or as one layer of it."""
        groups, sizes = self._axes(leaf)
        i, n = self.part
        part = tensor if n == 1 else tensor.reshape(n, -1, *tensor.shape[1:])[i]
        flat = [axis for group in groups for axis in group]
        return part.reshape([sizes[axis] for axis in flat]).transpose([flat.index(axis) for axis in sizes])

    def to_tensor(self, value: Shaped[np.ndarray, "..."], leaf: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
        """The parameter, or one layer of it, as the tensor, or as this part of it."""
        groups, sizes = self._axes(leaf)
        order = list(sizes)
        flat = [order.index(axis) for group in groups for axis in group]
        return value.transpose(flat).reshape([math.prod(sizes[axis] for axis in group) for group in groups])

    def _axes(self, leaf: tuple[int, ...]) -> tuple[list[tuple[str, ...]], dict[str, int]]:
        """The axes of the tensor, each a group of those of the parameter ("1": none), and the sizes of the latter."""
        left, _, right = self.layout.partition("->")
        groups = [tuple((group or axis).split()) for group, axis in _AXES.findall(left)]
        groups = [() if group == ("1",) else group for group in groups]
        axes = right.split() or [axis for group in groups for axis in group]
        return groups, dict(zip(axes, leaf[self.stacked :], strict=True))


Table = tuple[Row, ...]


def linear(tensor: str, leaf: str, bias: bool = True) -> Table:
    """A linear layer of PyTorch, [out, in], as a dense layer."""
    kernel = Row(f"{tensor}.weight", f"{leaf}/kernel", "o i -> i o")
    return (kernel, Row(f"{tensor}.bias", f"{leaf}/bias", "o")) if bias else (kernel,)


def norm(tensor: str, leaf: str, bias: bool = True) -> Table:
    """A layer normalization, or without a bias an RMS normalization."""
    scale = Row(f"{tensor}.weight", f"{leaf}/scale", "d")
    return (scale, Row(f"{tensor}.bias", f"{leaf}/bias", "d")) if bias else (scale,)


def attention(tensors: Sequence[str], leaf: str, bias: bool = True) -> Table:
    """The four linear layers of multi-head attention: of queries, keys, values, and the output."""
    rows = []
    *inner, out = tensors
    for name, tensor in zip("qkv", inner, strict=True):
        rows.append(Row(f"{tensor}.weight", f"{leaf}/{name}/kernel", "(h k) d -> d h k"))
        rows += [Row(f"{tensor}.bias", f"{leaf}/{name}/bias", "(h k) -> h k")] * bias
    rows.append(Row(f"{out}.weight", f"{leaf}/out/kernel", "d (h k) -> h k d"))
    rows += [Row(f"{out}.bias", f"{leaf}/out/bias", "d")] * bias
    return tuple(rows)


def convolution(tensor: str, leaf: str, bias: bool = True) -> Table:
    """A convolution of PyTorch, [out, in, y, x]."""
    kernel = Row(f"{tensor}.weight", f"{leaf}/kernel", "o c y x -> y x c o")
    return (kernel, Row(f"{tensor}.bias", f"{leaf}/bias", "o")) if bias else (kernel,)


def wanted(table: Table, leaves: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the name and shape of each tensor of a table, by the shapes of the parameters."""
    for row in table:
        shape = row.tensor_shape(leaves[row.leaf])
        yield from ((name, shape) for name in row.tensors(leaves[row.leaf]))
