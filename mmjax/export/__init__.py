"""Writes model folders, and loads them or workdirs as models with the abilities that they were trained for."""

from mmjax.export.describing import AttentionMaps as AttentionMaps
from mmjax.export.describing import Captioner as Captioner
from mmjax.export.describing import DualEncoder as DualEncoder
from mmjax.export.describing import QuestionAnswerer as QuestionAnswerer
from mmjax.export.generating import DirectImageGenerator as DirectImageGenerator
from mmjax.export.generating import ImageGenerator as ImageGenerator
from mmjax.export.generating import ImageTokenizer as ImageTokenizer
from mmjax.export.load import load as load
from mmjax.export.load import model_class as model_class
from mmjax.export.loaded import LoadedModel as LoadedModel
from mmjax.export.model_folder import write_model_folder as write_model_folder
from mmjax.export.pretrained_models import PretrainedAutoencoder as PretrainedAutoencoder
from mmjax.export.pretrained_models import PretrainedDualEncoder as PretrainedDualEncoder
from mmjax.export.pretrained_models import PretrainedImageEncoder as PretrainedImageEncoder
from mmjax.export.pretrained_models import PretrainedModel as PretrainedModel
from mmjax.export.pretrained_models import PretrainedTextEncoder as PretrainedTextEncoder
