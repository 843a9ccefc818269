"""Loads the model of a command."""

import argparse
from typing import Any

import mmjax
from mmjax.types import UserError


def load_able(arguments: argparse.Namespace, able: type | tuple[type, ...], does: str) -> Any:
    """Loads --model with the packages of --plugins.

    Args:
        able: classes of which the model must be.
        does: what those do, for the error.

    Raises:
        UserError: if it is no model or of another class.
    """
    model = mmjax.load(arguments.model, plugins=arguments.plugins)
    if not isinstance(model, able):
        raise UserError(
            f"--model {arguments.model}: a {model.config.model.kind} with the losses {', '.join(model.config.losses)}; "
            f"name a model that {does}"
        )
    return model
