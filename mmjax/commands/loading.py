"""Loading the model that a command was given."""

import argparse
from typing import Any

import mmjax
from mmjax.types import UserError


def load_able(arguments: argparse.Namespace, able: type | tuple[type, ...], does: str) -> Any:
    """The model of --model, with the packages of --plugins.

    Raises:
        UserError: where it is none, or not of the class that the command needs; `does` says what that class does.
    """
    model = mmjax.load(arguments.model, plugins=arguments.plugins)
    if not isinstance(model, able):
        raise UserError(
            f"--model {arguments.model}: a {model.config.model.kind} with the losses {', '.join(model.config.losses)}; "
            f"name a model that {does}"
        )
    return model
