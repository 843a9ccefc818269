"""A parser of HLO text: instructions, and how often each of them runs."""

import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"[\w.\-]+")
_OPERAND = re.compile(r"%([\w.\-]+(?:#\d+)?)")
_ELEMENT = re.compile(r"%([\w.\-]+)#(\d+)")
_CALLED = re.compile(r"\b(calls|body|to_apply|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NOT_HBM = re.compile(r"S\(\d+\)")  # memory space of a layout, other than HBM
_CONSTANT = re.compile(r"-?\d+")
_INDEX = re.compile(r"\bindex=(\d+)")
_DIRECTION = re.compile(r"\bdirection=(\w+)")

# Integer operations, and directions of comparisons, that the counters of loops are made of.
_EVALUATED: dict[str, Callable[..., int]] = dict.fromkeys(("copy", "convert", "bitcast"), operator.pos)
_EVALUATED |= {"add": operator.add, "subtract": operator.sub, "EQ": operator.eq, "NE": operator.ne}
_EVALUATED |= {"LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge}
_MAX_TRIPS = 100_000


@dataclass(frozen=True)
class Instruction:
    """One instruction of an HLO program.

    Attributes:
        result: the type of its result, as text.
        arguments: the text in its parentheses: operands, or a parameter's number.
        attributes: the text after the operands.
    """

    name: str
    result: str
    operation: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return _OPERAND.findall(self.arguments)

    @property
    def called(self) -> dict[str, str]:
        """The computations it calls, by attribute: calls, body, condition, to_apply."""
        return dict(_CALLED.findall(self.attributes))


Computation = Mapping[str, Instruction]  # by name, in order: the last one is the result


@dataclass
class Program:
    """The computations of a program by name, and the name of the entry computation."""

    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    entry: str = ""

    def runs(self, into_fusions: bool) -> Iterator[tuple[str, Instruction, int]]:
        """Each instruction with its computation and the number of its runs in one run of the program.

        Raises:
            ValueError: for a loop of unknown trip count.
        """
        waiting = [(self.entry, 1)]
        while waiting:
            computation, times = waiting.pop()
            for instruction in self.computations[computation].values():
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
        for branches in _BRANCHES.findall(instruction.attributes):
            yield from ((name, 1) for name in _NAME.findall(branches))

    def _trip_count(self, around: str, loop: Instruction) -> int:
        """The trip count of a loop in a computation: as XLA annotates, else by evaluating its integer counters."""
        if annotated := _TRIPS.search(loop.attributes):
            return int(annotated[1])
        condition, body = (self.computations[loop.called[part]] for part in ("condition", "body"))
        state = _elements(self.computations[around], loop.operands[0], ())
        for count in range(_MAX_TRIPS):
            continues = _value(condition, next(reversed(condition)), state)
            if continues is None:
                break
            if not continues:
                return count
            state = _elements(body, next(reversed(body)), state)
        raise ValueError(f"the trip count of the loop {loop.name} is unknown")


_State = Sequence[int | None]  # the integers of a loop's state, None for other values


def _elements(computation: Computation, name: str, state: _State) -> _State:
    """The integers of a tuple."""
    made = computation[name]
    return [_value(computation, part, state) for part in made.operands] if made.operation == "tuple" else ()


def _value(computation: Computation, name: str, state: _State) -> int | None:
    """The integer value of an instruction; None for other values."""
    made = computation[name]
    if made.operation == "constant":
        return int(made.arguments) if _CONSTANT.fullmatch(made.arguments) else None
    if made.operation == "get-tuple-element":
        index = _INDEX.search(made.attributes)
        of_state = computation[made.operands[0]].operation == "parameter"
        return state[int(index[1])] if index and of_state and int(index[1]) < len(state) else None
    direction = _DIRECTION.search(made.attributes) if made.operation == "compare" else None
    compute = _EVALUATED.get(direction[1] if direction else made.operation)
    if compute is None:
        return None
    values = [_value(computation, operand, state) for operand in made.operands]
    return None if None in values else int(compute(*values))


def parse(text: str) -> Program:
    """Parses HLO text, `compiled.as_text()`.

    Elements of tuples in its short form, `%tuple#2`, become instructions of that name.
    """
    program, current = Program(), dict[str, Instruction]()
    elements = functools.cache(parts)
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = program.computations[head[1]] = {}
            program.entry = head[1] if line.startswith("ENTRY") else program.entry
        elif match := _INSTRUCTION.match(line):  # f32[2]{0} add(%a, %b), attributes
            name, result, operation, rest = match.groups()
            for made, index in _ELEMENT.findall(rest):
                kind = elements(current[made].result)[int(index)]
                element = f"{made}#{index}"
                current[element] = Instruction(element, kind, "get-tuple-element", f"%{made}", f"index={index}")
            depths = itertools.accumulate((letter == "(") - (letter == ")") for letter in rest)
            closing = next(place for place, depth in enumerate(depths) if depth < 0)
            current[name] = Instruction(name, result, operation, rest[:closing], rest[closing + 1 :])
    return program


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


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return max(int(bits[0]) // 8, 1) if bits else 1  # a bool is a byte


def parts(result: str) -> list[str]:
    """The element types of a tuple type; of another type, itself."""
    if not result.startswith("("):
        return [result]
    inside = result[1:-1]
    depths = itertools.accumulate((letter in "([{") - (letter in ")]}") for letter in inside)
    outer = ("\n" if letter == "," and not depth else letter for letter, depth in zip(inside, depths, strict=True))
    return [part.strip() for part in "".join(outer).split("\n")]
