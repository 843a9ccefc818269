"""An instruction of an HLO program."""

import re
from dataclasses import dataclass

_CALLED = re.compile(r"\b(calls|body|to_apply|condition)=%?([\w.\-]+)")
_OPERAND = re.compile(r"%([\w.\-]+)")


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
    def operands(self) -> tuple[str, ...]:
        """The names of its operands."""
        return tuple(_OPERAND.findall(self.arguments))

    @property
    def called(self) -> dict[str, str]:
        """The computations it calls, by attribute: calls, body, condition, to_apply."""
        return dict(_CALLED.findall(self.attributes))
