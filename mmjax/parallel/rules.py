"""Sharding rules: from patterns of parameter names to the sharding of every parameter."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mmjax.types import UserError, leaf_name

Rules = Sequence[tuple[str, tuple[str | None, ...]]]


def match_rules(params: Any, rules: Rules, mesh: Mesh | AbstractMesh) -> Any:
    """The NamedSharding of each parameter, by the first rule whose pattern matches its whole name.

    Args:
        params: a tree of arrays or shapes.
        rules: pairs of a pattern and, for each array axis, a mesh axis or None.

    Raises:
        UserError: a table of all parameters without a rule, rules without a parameter and axes that do not divide.
    """
    problems: list[tuple[str, str]] = []
    used: set[int] = set()

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = leaf_name(path)
        matching = [i for i, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, name)]
        if not matching:
            problems.append((name, f"no rule for this parameter of shape {leaf.shape}"))
            return NamedSharding(mesh, PartitionSpec())
        used.add(matching[0])
        axes = rules[matching[0]][1]
        if len(axes) != leaf.ndim:
            problems.append((name, f"rule {rules[matching[0]][0]} names {len(axes)} axes, the shape is {leaf.shape}"))
        for axis, length in zip(axes, leaf.shape, strict=False):
            if axis is not None and length % mesh.shape[axis]:
                problems.append((name, f"{axis}={mesh.shape[axis]} does not divide {length} of shape {leaf.shape}"))
        return NamedSharding(mesh, PartitionSpec(*axes))

    shardings = jax.tree_util.tree_map_with_path(sharding, params)
    problems += [(pattern, "no parameter for this rule") for i, (pattern, _) in enumerate(rules) if i not in used]
    if problems:
        width = max(len(name) for name, _ in problems)
        raise UserError("sharding rules:\n" + "\n".join(f"  {name.ljust(width)}  {what}" for name, what in problems))
    return shardings
