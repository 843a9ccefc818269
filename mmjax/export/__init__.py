"""From a checkpoint to a model folder, and from either to a model that draws."""

from mmjax.export.load import GenerativeModel, load
from mmjax.export.model_folder import write_model_folder

__all__ = ["GenerativeModel", "load", "write_model_folder"]
