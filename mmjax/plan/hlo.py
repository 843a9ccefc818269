"""The collectives of a compiled program, parsed from its HLO text."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmjax.plan.program import Instruction, Program, parts, size

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?(?::\((\d+)\)(\d+))?")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_PERMUTED = re.compile(r"source_target_pairs=\{([\d,{}]*)\}")
# TPU slices communicate through their hosts, e.g. `_xla_megascale_target="{1,2}x{0:3}"`: slices, devices of each.
_HOW = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}x')


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program.

    Attributes:
        kind: "all-gather", "all-reduce", "reduce-scatter", ...
        size: bytes of the gathered, reduced or permuted array on each device.
        group: one of the groups of participating devices, by their index in the mesh.
        times: number of runs in a step.
    """

    kind: str
    size: int
    group: tuple[int, ...]
    times: int = 1

    @property
    def sent(self) -> float:
        """The bytes that each device sends in a step, at least."""
        n = len(self.group)
        if self.kind == "collective-permute":
            return float(self.size * self.times)
        share = self.size * (n - 1) / n * self.times
        return 2 * share if self.kind == "all-reduce" else share


def collectives(program: Program, devices: int, slices: int = 1) -> list[Collective]:
    """The collectives of a program, those in loops with their trip count.

    An asynchronous collective on TPUs is spread over several instructions of one channel, and counted once.

    Args:
        devices: number of devices, those of a slice adjacent.
        slices: number of TPU slices.

    Raises:
        ValueError: for a loop of unknown trip count, or if there is no traffic between slices.
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
        raise ValueError(
            "no traffic between slices found in the program; this version of libtpu may spell it differently"
        )
    return list(found.values())


def _between_slices(instruction: Instruction, each: int, times: int) -> Collective | None:
    """The part of a collective between slices of `each` devices, if an instruction is one."""
    how = _HOW.search(instruction.attributes)
    if instruction.operation != "send" or not how:
        return None
    kind = "collective-permute" if how[1] == "ONE_TO_ONE" else how[1].lower().replace("_", "-")
    slices = _SLICES.search(instruction.attributes)
    count = len(slices[1].split(",")) if slices else 2  # pairs of a permutation are listed singly
    given = size(parts(instruction.result)[0]) * (count if kind == "all-gather" else 1)
    return Collective(kind, given, tuple(range(0, each * count, each)), times)


def _collective(instruction: Instruction, computation: str, devices: int, times: int) -> Collective | None:
    """The collective of an instruction, if it is one, or starts one."""
    kind = instruction.operation.removesuffix("-start")
    group = _group(instruction.attributes, devices) if kind in _KINDS else ()
    if len(group) < 2:
        return None
    whole = size(instruction.result)
    if instruction.operation in ("all-gather-start", "collective-permute-start"):
        whole = size(parts(instruction.result)[1])  # a tuple: input, output, maybe flags
    elif kind == "reduce-scatter":
        whole *= len(group)  # the result is a shard
    elif kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how it is spelled on TPUs
    return Collective(kind, whole, group, times)


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """The first replica group, written as lists, as an iota (reshape and transpose), or as mesh axes."""
    if permuted := _PERMUTED.search(attributes):
        pairs = (_numbers(pair) for pair in permuted[1].split("},{"))
        return next((pair for pair in pairs if len(set(pair)) > 1), ())  # the others are no communication
    if iota := _IOTA.search(attributes):
        shape, sides, order = map(_numbers, iota.groups(default=""))
        ids = np.arange(math.prod(sides)).reshape(sides).transpose(order or range(len(sides)))
        return tuple(ids.reshape(shape)[0].tolist())
    if mesh := _MESH.search(attributes):
        return _on_mesh(mesh[1], mesh[2])
    if "replica_groups=mesh" in attributes:
        raise ValueError(f"unknown form of replica groups: {attributes[:200]}")
    listed = _LISTED.search(attributes)
    return _numbers(listed[1]) if listed else tuple(range(devices))


def _on_mesh(axes: str, along: str) -> tuple[int, ...]:
    """The first group along mesh axes, or factors of them: of `'a'=2,'b'=8` along `'b':(2)4`."""
    taken = {name: (int(before or 1), int(size or 0)) for name, _, before, size in _AXIS.findall(along)}
    sides: list[int] = []
    for name, length, _, _ in _AXIS.findall(axes):
        before, size = taken.get(name, (int(length), 1))
        size = size or int(length)
        sides += [before, size, int(length) // (before * size)]
    return first_group(sides, [False, True, False] * (len(sides) // 3))


def first_group(sides: Sequence[int], chosen: Sequence[bool]) -> tuple[int, ...]:
    """The devices of a mesh that differ from the first along the chosen axes only."""
    ids = np.arange(math.prod(sides)).reshape(sides)
    return tuple(ids[tuple(slice(None) if along else 0 for along in chosen)].reshape(-1).tolist())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))
