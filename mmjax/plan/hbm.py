"""HBM traffic of a compiled program: a lower bound."""

from mmjax.plan.program import Computation, Instruction, Program, parts, size

# These access no memory: they name or await values, or run other computations.
_FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast",
    "while", "conditional", "call", "after-all", "partition-id",
    "replica-id", "iota", "opt-barrier", "async-start", "async-update",
))  # fmt: skip
_PARTS = ("dynamic-slice", "slice", "gather")  # read only as much of their operand as they return


def bytes_accessed(program: Program) -> int:
    """The bytes of HBM that a device reads and writes in one run: operands are read and results written once.

    A fusion that slices an operand reads only the slice, and one that updates a slice writes only that. Values in the
    cores' own memory are free.
    """
    return sum(
        times * (_read(program, program.computations[where], instruction) + _written(program, instruction))
        for where, instruction, times in program.runs(into_fusions=False)
        if instruction.operation not in _FREE and not instruction.operation.endswith("-done")
    )


def _read(program: Program, around: Computation, instruction: Instruction) -> int:
    sizes = [size(around[name].result, hbm_only=True) for name in instruction.operands]
    if instruction.operation == "slice-start":
        return min(sum(sizes), size(parts(instruction.result)[1]))
    if instruction.operation in _PARTS:
        sizes[0] = min(sizes[0], size(instruction.result))
    elif instruction.operation == "dynamic-update-slice":
        sizes[0] = 0
    elif instruction.operation == "fusion":
        inside = program.computations[instruction.called["calls"]]
        return sum(min(whole, _part(inside, number, whole)) for number, whole in enumerate(sizes))
    return sum(sizes)


def _part(inside: Computation, number: int, whole: int) -> int:
    """The bytes of an operand that a fusion reads."""
    parameters = {each.arguments: name for name, each in inside.items() if each.operation == "parameter"}
    name, taken = parameters[str(number)], 0
    for user in inside.values():
        if name not in user.operands:
            continue
        if user.operation in _PARTS and user.operands[0] == name:
            taken += size(user.result)
        elif user.operation != "dynamic-update-slice" or user.operands[0] != name:
            return whole
    return taken


def _written(program: Program, instruction: Instruction) -> int:
    if instruction.operation.endswith("-start"):  # (input, output); of copies (output, input)
        both = parts(instruction.result)
        return size(both[0 if instruction.operation == "copy-start" else 1 % len(both)], hbm_only=True)
    inside: Computation = {instruction.name: instruction}
    if instruction.operation == "fusion":
        inside = program.computations[instruction.called["calls"]]
    updates = [each for each in inside.values() if each.operation == "dynamic-update-slice"]
    kept = sum(size(each.result) - size(inside.get(each.operands[1], each).result) for each in updates)
    return max(size(instruction.result, hbm_only=True) - kept, 0)
