"""Reads what a compiled program sends between devices."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmjax.plan.program import Instruction, Program, parts, size

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


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


def collectives(program: Program, devices: int) -> list[Collective]:
    """The collectives of a program, those in loops as often as these turn.

    Args:
        devices: how many it runs on.

    Raises:
        ValueError: where a loop does not say how often it turns.
    """
    found = (_collective(instruction, where, devices, times) for where, instruction, times in program.runs(True))
    return [each for each in found if each is not None]


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
    """The first of the groups of devices, written as a list of lists or as an array that is reshaped and transposed."""
    if pair := _PAIRS.search(attributes):
        return int(pair[1]), int(pair[2])
    if iota := _IOTA.search(attributes):
        shape, sides = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(math.prod(sides)).reshape(sides)
        ids = ids.transpose(_numbers(iota[3])) if iota[3] else ids
        return tuple(map(int, ids.reshape(shape)[0]))
    listed = _LISTED.search(attributes)
    if listed and listed[1]:
        return tuple(json.loads(listed[1].split("}")[0].replace("{", "[") + "]"))
    return tuple(range(devices))


def _numbers(text: str) -> Sequence[int]:
    return [int(part) for part in text.split(",")]
