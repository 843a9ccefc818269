"""Reads what a compiled program sends between devices out of its HLO text."""

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(calls|body|to_apply|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


@dataclass(frozen=True)
class Instruction:
    """One line: its name, the text of its result's type, its operation, operands and attributes."""

    name: str
    result: str
    operation: str
    operands: str
    attributes: str


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


def bytes_of(shape: str) -> int:
    """Bytes of the arrays in the text of a type, without padding: of `(f32[2,3]{1,0}, u8[4])` 28."""
    return sum(
        math.prod(map(int, filter(None, sides.split(",")))) * _width(kind) for kind, sides in _ARRAY.findall(shape)
    )


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return max(int(bits[0]) // 8, 1) if bits else 1  # a truth value is a byte


def collectives(text: str, devices: int) -> list[Collective]:
    """The collectives of a program, those in loops as often as these turn.

    Args:
        text: of the optimized program, `compiled.as_text()`.
        devices: how many it runs on.

    Raises:
        ValueError: where a loop with collectives does not say how often it turns.
    """
    computations, entry = _computations(text)

    @functools.cache
    def within(name: str) -> tuple[Collective, ...]:
        found: list[Collective] = []
        for instruction in computations[name]:
            found += _here(instruction, name, devices)
            for inner, times in _calls(instruction):
                below = within(inner)
                if below and times is None:
                    raise ValueError(f"the loop {instruction.name} does not say how often it turns")
                found += [Collective(c.kind, c.size, c.group, c.times * (times or 1)) for c in below]
        return tuple(found)

    return list(within(entry))


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation by its name, and the name of the one that is run."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[1]
            found[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (match := _INSTRUCTION.match(line)):
            found[current].append(_instruction(match[1], match[2]))
    return found, entry


def _instruction(name: str, rest: str) -> Instruction:
    """Takes `f32[2]{0} add(%a, %b), attributes` apart; a type may be a tuple, and holds parentheses then."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    return Instruction(name, result, rest[:opening], rest[opening + 1 : closing], rest[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"parentheses do not match: {text[:80]}")


def _calls(instruction: Instruction) -> Iterator[tuple[str, int | None]]:
    """The computations that an instruction runs, and how often; None: not known."""
    if instruction.operation in ("async-done", "async-update"):
        return  # async-start has run it
    trips = _TRIPS.search(instruction.attributes)
    for how, name in _CALLED.findall(instruction.attributes):
        if how == "to_apply" and instruction.operation != "call":
            continue  # of a reduction: adds two numbers
        yield name, ((int(trips[1]) if trips else None) if how in ("body", "condition") else 1)
    for several, one in _BRANCHES.findall(instruction.attributes):
        for name in filter(None, [one, *(part.strip().lstrip("%") for part in several.split(","))]):
            yield name, 1


def _here(instruction: Instruction, computation: str, devices: int) -> list[Collective]:
    """The collective that an instruction is, if it is one: its beginning, where it has a beginning and an end."""
    kind = instruction.operation.removesuffix("-start")
    if kind not in _KINDS:
        return []
    group = _group(instruction.attributes, devices)
    if len(group) < 2:
        return []
    size = bytes_of(instruction.result)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how TPUs spell it: a sum of which each takes its part
    elif kind == "reduce-scatter":
        size *= len(group)  # the result is a part
    if instruction.operation.endswith("-start") and kind in ("all-gather", "collective-permute"):
        size = _last(instruction.result)  # a tuple of what goes in and what comes out
    return [Collective(kind, size, group)]


def _last(result: str) -> int:
    """Bytes of what comes out of the beginning of a collective, of the type (in, out) with flags behind."""
    inside = result[1:-1] if result.startswith("(") else result
    parts = [part for part in _top_level(inside) if "[" in part]
    return bytes_of(parts[1] if len(parts) > 1 else parts[0])


def _top_level(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


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
