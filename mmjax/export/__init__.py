"""From a checkpoint to a model folder, and from either to a model that draws and describes."""

from mmjax.export.describing import Looked
from mmjax.export.load import load
from mmjax.export.model import GenerativeModel
from mmjax.export.model_folder import write_model_folder

__all__ = ["GenerativeModel", "Looked", "load", "write_model_folder"]
