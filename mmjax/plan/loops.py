"""Trip counts of while loops that XLA does not annotate, by evaluating their integer counters."""

import re
from collections.abc import Mapping, Sequence

from mmjax.plan.instruction import Instruction

_CONSTANT = re.compile(r"-?\d+")
_INDEX = re.compile(r"\bindex=(\d+)")
_DIRECTION = re.compile(r"\bdirection=(\w+)")
_SAME = ("copy", "convert", "bitcast")
_LIMIT = 100_000

State = Sequence[int | None]  # the integers of a loop's state, None for other values


def trip_count(
    loop: Instruction, around: Sequence[Instruction], condition: Sequence[Instruction], body: Sequence[Instruction]
) -> int | None:
    """The trip count of a loop; None if it cannot be found.

    Args:
        around: the computation that contains the loop.
        condition, body: of the loop.
    """
    state = _elements(loop.operands[0], around, ())
    for count in range(_LIMIT):
        continues = _value(condition[-1].name, _by_name(condition), state)
        if continues is None:
            return None
        if not continues:
            return count
        state = _elements(body[-1].name, body, state)
    return None


def _by_name(computation: Sequence[Instruction]) -> dict[str, Instruction]:
    return {instruction.name: instruction for instruction in computation}


def _elements(name: str, computation: Sequence[Instruction], state: State) -> State:
    """The integers of a tuple."""
    known = _by_name(computation)
    made = known[name]
    return [_value(part, known, state) for part in made.operands] if made.operation == "tuple" else ()


def _value(name: str, known: Mapping[str, Instruction], state: State) -> int | None:
    """The integer value of an instruction; None for other values."""
    made = known.get(name)
    if made is None:
        return None
    if made.operation == "constant":
        return int(made.arguments) if _CONSTANT.fullmatch(made.arguments) else None
    if made.operation == "get-tuple-element":
        index = _INDEX.search(made.attributes)
        of_state = known.get(made.operands[0])
        if index is None or of_state is None or of_state.operation != "parameter" or int(index[1]) >= len(state):
            return None
        return state[int(index[1])]
    if made.operation in _SAME:
        return _value(made.operands[0], known, state)
    if made.operation not in ("add", "subtract", "compare"):
        return None
    first, second = (_value(operand, known, state) for operand in made.operands)
    if first is None or second is None:
        return None
    if made.operation == "compare":
        direction = _DIRECTION.search(made.attributes)
        return int(_compared(first, second, direction[1] if direction else ""))
    return first + second if made.operation == "add" else first - second


def _compared(first: int, second: int, direction: str) -> bool:
    return {
        "LT": first < second,
        "LE": first <= second,
        "GT": first > second,
        "GE": first >= second,
        "EQ": first == second,
        "NE": first != second,
    }[direction]
