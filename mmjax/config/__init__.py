"""From a config (a ConfigDict, overridden on the command line) to frozen dataclasses, strictly.

A config names only what differs from the defaults in `fields.py`, `data_fields.py` and `model_fields.py`. Unknown
fields, wrong types and impossible sizes are errors of one line, raised before anything is opened.
"""

from mmjax.config.data_fields import AudioConfig, DataConfig, MixtureComponent, ScenesConfig
from mmjax.config.fields import (
    Config,
    DiscriminatorConfig,
    EvaluateConfig,
    MeshConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PerceptualConfig,
    SamplingConfig,
    TextConfig,
    TextDecodingConfig,
    TextEncoderConfig,
    TokensConfig,
    TrainConfig,
)
from mmjax.config.model_fields import (
    DirectGeneratorConfig,
    MaskedGeneratorConfig,
    ModelConfig,
    VisionLanguageConfig,
    VisualTokenizerConfig,
)
from mmjax.config.parse import differences, load_config, parse_arguments, resolve, to_dict

__all__ = [
    "AudioConfig",
    "Config",
    "DataConfig",
    "DirectGeneratorConfig",
    "DiscriminatorConfig",
    "EvaluateConfig",
    "MaskedGeneratorConfig",
    "MeshConfig",
    "MixtureComponent",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PerceptualConfig",
    "SamplingConfig",
    "ScenesConfig",
    "TextConfig",
    "TextDecodingConfig",
    "TextEncoderConfig",
    "TokensConfig",
    "TrainConfig",
    "VisionLanguageConfig",
    "VisualTokenizerConfig",
    "differences",
    "load_config",
    "parse_arguments",
    "resolve",
    "to_dict",
]
