"""Config fields of models that others trained and that are components of mmjax's."""

from dataclasses import dataclass, field
from typing import Any

from mmjax.config.schema import setting

VISION_ENCODER = "vision_encoder"  # the component whose parameters become those of the model


@dataclass(frozen=True)
class PretrainedConfig:
    """What is known of a model that others trained, in a folder in Hugging Face's layout, without the folder.

    Attributes:
        settings: the values of its config.json.
        has: optional parts that its checkpoint has; see FamilySpec.optional.
        padding: id of the token of padding, of one that encodes texts.
        mean, deviation: of the channels of images from 0 to 1, of one that encodes images.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    has: tuple[str, ...] = ()
    padding: int = setting(0, at_least=0)
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
