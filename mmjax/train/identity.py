"""What a checkpoint belongs to, saved beside its state: a config, training examples and a text tokenizer."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from mmjax import registry
from mmjax.config import Config, differences, resolve, to_dict
from mmjax.train import storage
from mmjax.train.workdir import changed_fields, listed
from mmjax.types import UserError

ITEM = "run"  # beside the state, as JSON


def identity(config: Config | None, data: Any, tokenizer: bytes) -> dict[str, Any]:
    """What the checkpoints of a run belong to.

    Args:
        config: None: any.
        data: the number of training examples and a digest of them, as in config.json; None: any.
        tokenizer: the serialized text tokenizer.
    """
    digest = hashlib.sha256(tokenizer).hexdigest()
    return {"config": config and to_dict(config), "data": data, "tokenizer": digest}


def check(checkpoint: epath.Path, now: Mapping[str, Any]) -> None:
    """Raises UserError if a checkpoint was saved by another run than that of this identity.

    A damaged file is left out with a warning: the arrays have their fingerprints.
    """
    path = checkpoint / ITEM
    saved = storage.read_optional(path, lambda: _read(path))
    if saved is None:
        return
    changed = []
    if now.get("config"):
        try:
            before = resolve(saved["config"], plugins=registry.packages(now["config"]))
        except UserError as error:
            raise UserError(f"{path}: is of another run or version of mmjax: {error}") from None
        changed += changed_fields(to_dict(before), now["config"])
    parts = [part for part in ("data", "tokenizer") if saved.get(part) and now.get(part)]
    was, is_ = ({part: each[part] for part in parts} for each in (saved, now))
    if changed := [*changed, *differences(was, is_)]:
        raise UserError(
            f"{checkpoint}: is a checkpoint of another run: {listed(changed)}; restore what is of its run, or name "
            "another --workdir"
        )


def _read(path: epath.Path) -> dict[str, Any] | None:
    try:
        saved: dict[str, Any] = json.loads((path / "metadata").read_text())
    except FileNotFoundError:
        return None
    if not (isinstance(saved, dict) and isinstance(saved.get("config"), dict)):
        raise ValueError("holds no config")
    return saved
