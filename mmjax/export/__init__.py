"""Writes model folders, and loads them or workdirs as models with the abilities that they were trained for."""

from mmjax.export.describing import AttentionMaps, Captioner, DualEncoder, QuestionAnswerer
from mmjax.export.generating import DirectImageGenerator, ImageGenerator
from mmjax.export.load import load, model_class
from mmjax.export.loaded import LoadedModel
from mmjax.export.model_folder import write_model_folder
from mmjax.export.tokenizing import ImageTokenizer

__all__ = [
    "AttentionMaps",
    "Captioner",
    "DirectImageGenerator",
    "DualEncoder",
    "ImageGenerator",
    "ImageTokenizer",
    "LoadedModel",
    "QuestionAnswerer",
    "load",
    "model_class",
    "write_model_folder",
]
