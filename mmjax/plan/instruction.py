"""An instruction of a compiled program."""

import re
from dataclasses import dataclass

_CALLED = re.compile(r"\b(calls|body|to_apply|condition)=%?([\w.\-]+)")
_OPERAND = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        result: the text of its result's type.
        arguments: the text between its parentheses: the names of operands, the number of a parameter.
        attributes: what follows behind the operands.
    """

    name: str
    result: str
    operation: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> tuple[str, ...]:
        """The names of the instructions whose results it takes."""
        return tuple(_OPERAND.findall(self.arguments))

    @property
    def called(self) -> dict[str, str]:
        """The computations that it runs, by what they are to it: calls, body, condition, to_apply."""
        return dict(_CALLED.findall(self.attributes))
