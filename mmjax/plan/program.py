"""A parser of HLO text: instructions, and how often each of them runs."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmjax.plan.instruction import Instruction
from mmjax.plan.loops import trip_count

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NOT_HBM = re.compile(r"S\(\d+\)")  # memory space of a layout, other than HBM


@dataclass(frozen=True)
class Program:
    """The computations of a program by name, as instructions, and the name of the entry computation."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def runs(self, into_fusions: bool) -> Iterator[tuple[str, Instruction, int]]:
        """Each instruction with its computation and the number of its runs in one run of the program.

        Raises:
            ValueError: for a loop of unknown trip count.
        """
        waiting = [(self.entry, 1)]
        while waiting:
            computation, times = waiting.pop()
            for instruction in self.computations[computation]:
                yield computation, instruction, times
                if into_fusions or instruction.operation != "fusion":
                    waiting += [(name, times * often) for name, often in self._calls(computation, instruction)]

    def _calls(self, computation: str, instruction: Instruction) -> Iterator[tuple[str, int]]:
        """The computations that an instruction calls, and how often."""
        if instruction.operation in ("async-done", "async-update"):
            return  # called by async-start
        often = self._trip_count(computation, instruction) if instruction.operation == "while" else 1
        for how, name in instruction.called.items():
            if how != "to_apply" or instruction.operation == "call":  # other to_apply are scalar reducers
                yield name, often
        for branches, branch in _BRANCHES.findall(instruction.attributes):
            for name in filter(None, [branch, *(part.strip().lstrip("%") for part in branches.split(","))]):
                yield name, 1

    def _trip_count(self, computation: str, loop: Instruction) -> int:
        annotated = _TRIPS.search(loop.attributes)
        if annotated:
            return int(annotated[1])
        condition, body = (self.computations[loop.called[part]] for part in ("condition", "body"))
        found = trip_count(loop, self.computations[computation], condition, body)
        if found is None:
            raise ValueError(f"the trip count of the loop {loop.name} is unknown")
        return found


def parse(text: str) -> Program:
    """Parses HLO text, `compiled.as_text()`."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[1]
            found[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (match := _INSTRUCTION.match(line)):
            found[current].append(_instruction(match[1], match[2]))
    return Program({name: tuple(instructions) for name, instructions in found.items()}, entry)


def size(result: str, hbm_only: bool = False) -> int:
    """The bytes of the arrays in a type, without padding: 28 for `(f32[2,3]{1,0}, u8[4])`.

    Args:
        hbm_only: ignore arrays in other memories, such as a core's own.
    """
    return sum(
        math.prod(map(int, filter(None, sides.split(",")))) * _width(kind)
        for kind, sides, layout in _ARRAY.findall(result)
        if not (hbm_only and _NOT_HBM.search(layout))
    )


def parts(result: str) -> list[str]:
    """The element types of a tuple type; of another type, itself."""
    if not result.startswith("("):
        return [result]
    found, depth, start, inside = [], 0, 0, result[1:-1]
    for place, letter in enumerate(inside):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            found.append(inside[start:place].strip())
            start = place + 1
    return [*found, inside[start:].strip()]


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return max(int(bits[0]) // 8, 1) if bits else 1  # a bool is a byte


def _instruction(name: str, rest: str) -> Instruction:
    """Parses `f32[2]{0} add(%a, %b), attributes`; a tuple type is in parentheses itself."""
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
    raise ValueError(f"unbalanced parentheses: {text[:80]}")
