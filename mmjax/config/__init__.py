"""Configs: parses and checks config files, with overrides of the command line, into frozen dataclasses.

Defaults are declared with the fields, in `fields.py` and `data_fields.py` and in the files of models, losses and
optimizers. Unknown fields and invalid values raise one-line errors before any data is opened.
"""

from mmjax.config.data_fields import DataConfig, ScenesConfig
from mmjax.config.fields import (
    ComponentConfig,
    ComputeConfig,
    Config,
    LoraConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PerceptualConfig,
    SamplingConfig,
    TextDecodingConfig,
    TrainConfig,
)
from mmjax.config.load import load_config, parse_arguments, read_config_dict
from mmjax.config.parse import differences, resolve, to_dict
from mmjax.config.pretrained_fields import PretrainedConfig

__all__ = [
    "ComponentConfig",
    "ComputeConfig",
    "Config",
    "DataConfig",
    "LoraConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PerceptualConfig",
    "PretrainedConfig",
    "SamplingConfig",
    "ScenesConfig",
    "TextDecodingConfig",
    "TrainConfig",
    "differences",
    "load_config",
    "parse_arguments",
    "read_config_dict",
    "resolve",
    "to_dict",
]
