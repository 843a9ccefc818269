"""HBM traffic of a compiled program: a lower bound."""

from collections.abc import Mapping

from mmjax.plan.instruction import Instruction
from mmjax.plan.program import Program, parts, size

# These access no memory: they name or await values, or run other computations.
_FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast",
    "while", "conditional", "call", "after-all", "partition-id",
    "replica-id", "iota", "opt-barrier", "async-start", "async-update",
    "async-done", "copy-done", "send-done", "recv-done",
))  # fmt: skip
_PARTS = frozenset(("dynamic-slice", "slice", "gather"))  # read only as much of their operand as they return


def bytes_accessed(program: Program) -> int:
    """The bytes of HBM that a device reads and writes in one run: operands are read and results written once.

    A fusion that slices an operand reads only the slice, and one that updates a slice writes only that. Values in the
    cores' own memory are free.
    """
    total = 0
    results = {
        name: {instruction.name: instruction.result for instruction in instructions}
        for name, instructions in program.computations.items()
    }
    for where, instruction, times in program.runs(False):
        operation = instruction.operation
        if operation not in _FREE and not operation.endswith("-done"):
            total += times * (_read(program, instruction, results[where]) + _written(program, instruction))
    return total


def _read(program: Program, instruction: Instruction, results: Mapping[str, str]) -> int:
    sizes = [size(results.get(name, ""), hbm_only=True) for name in instruction.operands]
    if instruction.operation == "slice-start":
        return min(sum(sizes), size(parts(instruction.result)[1]))
    if instruction.operation in _PARTS:
        sizes[0] = min(sizes[0], size(instruction.result))
    elif instruction.operation == "dynamic-update-slice":
        sizes[0] = 0
    elif instruction.operation == "fusion":
        inside = program.computations[instruction.called["calls"]]
        for number, whole in enumerate(sizes):
            sizes[number] = min(whole, _part(inside, number, whole))
    return sum(sizes)


def _part(inside: tuple[Instruction, ...], number: int, whole: int) -> int:
    """The bytes of an operand that a fusion reads."""
    numbered = [each.name for each in inside if each.operation == "parameter" and each.arguments == str(number)]
    name = "".join(numbered)
    users = [each for each in inside if name in each.operands]
    taken = 0
    for user in users:
        if user.operation in _PARTS and user.operands[0] == name:
            taken += size(user.result)
        elif not (user.operation == "dynamic-update-slice" and user.operands[0] == name):
            return whole
    return taken


def _written(program: Program, instruction: Instruction) -> int:
    if instruction.operation.endswith("-start"):  # (input, output); of copies (output, input)
        both = parts(instruction.result)
        return size(both[0 if instruction.operation == "copy-start" else 1 % len(both)], hbm_only=True)
    whole = size(instruction.result, hbm_only=True)
    inside = program.computations[instruction.called["calls"]] if instruction.operation == "fusion" else (instruction,)
    results = {each.name: each.result for each in inside}
    updates = [each for each in inside if each.operation == "dynamic-update-slice"]
    replaced = sum(size(each.result) - size(results.get(each.operands[1], each.result)) for each in updates)
    return max(whole - replaced, 0)
