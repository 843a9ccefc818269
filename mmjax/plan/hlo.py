"""Reads what a compiled program sends between devices."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmjax.plan.instruction import Instruction
from mmjax.plan.program import Program, parts, size

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?(?::\((\d+)\)(\d+))?")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_PERMUTED = re.compile(r"source_target_pairs=\{([\d,{}]*)\}")
_PAIR = re.compile(r"\{(\d+),(\d+)\}")
# Between slices TPUs send through their hosts, as in `_xla_megascale_target="{1,2}x{0:3}"`: slices, devices of each.
_HOW = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}x')
_BETWEEN_SLICES = {"ONE_TO_ONE": "collective-permute"}


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program.

    Attributes:
        kind: "all-gather", "all-reduce", "reduce-scatter", ...
        size: bytes of the whole: what is gathered, summed up or sent, on each device.
        group: the devices that take part, one group of all alike, by their place on the mesh.
        times: how often it runs in a step.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, where every other one needs its part once."""
        n = len(self.group)
        if self.kind == "collective-permute":
            return float(self.size * self.times)
        share = self.size * (n - 1) / n * self.times
        return 2 * share if self.kind == "all-reduce" else share


def collectives(program: Program, devices: int, slices: int = 1) -> list[Collective]:
    """The collectives of a program, those in loops as often as these turn.

    What TPUs do bit by bit beside other work stands in several places with the same channel: it counts once.

    Args:
        devices: how many it runs on, those of a slice next to each other.
        slices: of TPUs that these are in.

    Raises:
        ValueError: where a loop does not say how often it turns, or slices would send each other nothing.
    """
    found: dict[str, Collective] = {}
    between = 0
    for where, instruction, times in program.runs(True):
        if each := _between_slices(instruction, devices // slices, times):
            found[f"{where} {instruction.name}"] = each
            between += 1
        elif each := _collective(instruction, where, devices, times):
            channel = _CHANNEL.search(instruction.attributes)
            name = channel[0] if channel else f"{where} {instruction.name}"
            if name not in found or found[name].sent < each.sent:
                found[name] = each
    if slices > 1 and not between:
        raise ValueError("the program says nothing of what slices send each other; is this version of libtpu known?")
    return list(found.values())


def _between_slices(instruction: Instruction, each: int, times: int) -> Collective | None:
    """The part of a collective that goes from slice to slice of so many devices each, if an instruction is one."""
    how = _HOW.search(instruction.attributes)
    if instruction.operation != "send" or not how:
        return None
    slices = _SLICES.search(instruction.attributes)
    count = len(slices[1].split(",")) if slices else 2  # the pairs of a permutation are listed one by one
    kind = _BETWEEN_SLICES.get(how[1], how[1].lower().replace("_", "-"))
    given = size(parts(instruction.result)[0])
    return Collective(
        kind, given * count if kind == "all-gather" else given, tuple(range(0, each * count, each)), times
    )


def _collective(instruction: Instruction, computation: str, devices: int, times: int) -> Collective | None:
    """The collective that an instruction is, if it is one: its beginning, where it has a beginning and an end."""
    kind = instruction.operation.removesuffix("-start")
    if kind not in _KINDS:
        return None
    group = _group(instruction.attributes, devices)
    if len(group) < 2:
        return None
    whole = size(instruction.result)
    if instruction.operation in ("all-gather-start", "collective-permute-start"):
        whole = size(parts(instruction.result)[1])  # a tuple of what goes in, what comes out, and perhaps flags
    elif kind == "reduce-scatter":
        whole *= len(group)  # the result is a part
    elif kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how TPUs spell it: a sum of which each takes its part
    return Collective(kind, whole, group, times)


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """The first group of devices, written as lists, as a reshaped and transposed array, or as axes of a mesh."""
    if permuted := _PERMUTED.search(attributes):
        pairs = [(int(one), int(other)) for one, other in _PAIR.findall(permuted[1])]
        return next((pair for pair in pairs if pair[0] != pair[1]), ())  # the others keep what they have
    if iota := _IOTA.search(attributes):
        shape, sides = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(math.prod(sides)).reshape(sides)
        ids = ids.transpose(_numbers(iota[3])) if iota[3] else ids
        return tuple(map(int, ids.reshape(shape)[0]))
    if mesh := _MESH.search(attributes):
        return _on_mesh(mesh[1], mesh[2])
    if "replica_groups=mesh" in attributes:
        raise ValueError(f"unknown form of groups of devices: {attributes[:200]}")
    listed = _LISTED.search(attributes)
    if listed and listed[1]:
        return tuple(json.loads(listed[1].split("}")[0].replace("{", "[") + "]"))
    return tuple(range(devices))


def _on_mesh(axes: str, along: str) -> tuple[int, ...]:
    """The first group of devices along axes of a mesh, or along parts of them: of `'a'=2,'b'=8` along `'b':(2)4`."""
    taken = {name: (int(before or 1), int(size or 0)) for name, _, before, size in _AXIS.findall(along)}
    sides: list[int] = []
    chosen: list[bool] = []
    for name, length, _, _ in _AXIS.findall(axes):
        before, size = taken.get(name, (int(length), 1))
        size = size or int(length)
        sides += [before, size, int(length) // (before * size)]
        chosen += [False, True, False]
    ids = np.arange(math.prod(sides)).reshape(sides)
    return tuple(map(int, ids[tuple(slice(None) if c else 0 for c in chosen)].reshape(-1)))


def _numbers(text: str) -> Sequence[int]:
    return [int(part) for part in text.split(",")]
