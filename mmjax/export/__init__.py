"""From a checkpoint to a model folder, and from either to a model that draws and describes."""

from mmjax.export.describing import AttentionMaps
from mmjax.export.load import load
from mmjax.export.model import GenerativeModel
from mmjax.export.model_folder import write_model_folder

__all__ = ["AttentionMaps", "GenerativeModel", "load", "write_model_folder"]
