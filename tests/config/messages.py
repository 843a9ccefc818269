"""The message of an error of the user."""

from typing import Any

import pytest

from mmjax.types import UserError


def error_message(call: Any, *arguments: Any, **named: Any) -> str:
    """The message of the UserError that the call raises, which must be one line."""
    with pytest.raises(UserError) as error:
        call(*arguments, **named)
    message = str(error.value)
    assert message and "\n" not in message
    return message
