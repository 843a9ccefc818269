"""From a recipe (a ConfigDict, overridden on the command line) to frozen dataclasses, strictly.

A recipe names only what differs from the defaults in `fields.py`, `data_fields.py` and `model_fields.py`. Unknown
fields, wrong types and impossible sizes are errors of one line, raised before anything is opened.
"""

from mmjax.config.data_fields import Audio, Data, Part, Scenes
from mmjax.config.fields import (
    Config,
    Discriminator,
    Evaluate,
    Mesh,
    Objective,
    Optimizer,
    Perceptual,
    Sampling,
    Text,
    TextEncoder,
    Tokens,
    Train,
    Writing,
)
from mmjax.config.model_fields import DirectGenerator, MaskedGenerator, Model, VisionLanguage, VisualTokenizer
from mmjax.config.parse import differences, load_recipe, parse_arguments, resolve, to_dict

__all__ = [
    "Audio",
    "Config",
    "Data",
    "DirectGenerator",
    "Discriminator",
    "Evaluate",
    "MaskedGenerator",
    "Mesh",
    "Model",
    "Objective",
    "Optimizer",
    "Part",
    "Perceptual",
    "Sampling",
    "Scenes",
    "Text",
    "TextEncoder",
    "Tokens",
    "Train",
    "VisionLanguage",
    "VisualTokenizer",
    "Writing",
    "differences",
    "load_recipe",
    "parse_arguments",
    "resolve",
    "to_dict",
]
