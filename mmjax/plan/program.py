"""Takes the text of a compiled program (HLO) apart: its instructions, and how often each of them runs."""

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
_ELSEWHERE = re.compile(r"S\(\d+\)")  # a layout outside of the chip's HBM


@dataclass(frozen=True)
class Program:
    """The instructions of each computation by its name, and the name of the one that is run."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def runs(self, into_fusions: bool) -> Iterator[tuple[str, Instruction, int]]:
        """Each instruction that runs, behind the computation that it is in, and how often in a run of the program.

        Raises:
            ValueError: where a loop does not say how often it turns.
        """
        waiting = [(self.entry, 1)]
        while waiting:
            computation, times = waiting.pop()
            for instruction in self.computations[computation]:
                yield computation, instruction, times
                if into_fusions or instruction.operation != "fusion":
                    waiting += [(name, times * often) for name, often in self._calls(computation, instruction)]

    def _calls(self, computation: str, instruction: Instruction) -> Iterator[tuple[str, int]]:
        """The computations that an instruction of a computation runs, and how often."""
        if instruction.operation in ("async-done", "async-update"):
            return  # async-start has run it
        often = self._turns(computation, instruction) if instruction.operation == "while" else 1
        for how, name in instruction.called.items():
            if how != "to_apply" or instruction.operation == "call":  # others apply an addition of two numbers
                yield name, often
        for several, one in _BRANCHES.findall(instruction.attributes):
            for name in filter(None, [one, *(part.strip().lstrip("%") for part in several.split(","))]):
                yield name, 1

    def _turns(self, computation: str, loop: Instruction) -> int:
        told = _TRIPS.search(loop.attributes)
        if told:
            return int(told[1])
        condition, body = (self.computations[loop.called[part]] for part in ("condition", "body"))
        found = trip_count(loop, self.computations[computation], condition, body)
        if found is None:
            raise ValueError(f"the loop {loop.name} does not say how often it turns")
        return found


def parse(text: str) -> Program:
    """The program of a text, `compiled.as_text()`."""
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
    """Bytes of the arrays in the text of a type, without padding: of `(f32[2,3]{1,0}, u8[4])` 28.

    Args:
        in_main_memory: count only those that lie there, and not in a memory of the chip's cores.
    """
    return sum(
        math.prod(map(int, filter(None, sides.split(",")))) * _width(kind)
        for kind, sides, layout in _ARRAY.findall(result)
        if not (hbm_only and _ELSEWHERE.search(layout))
    )


def parts(result: str) -> list[str]:
    """The types in the text of a tuple's type; that of anything else alone."""
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
    return max(int(bits[0]) // 8, 1) if bits else 1  # a truth value is a byte


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
