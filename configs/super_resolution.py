"""Super-resolution: a masked generator conditioned on the text and on the codes of the image at a lower resolution.

Arguments: source=scenes (or coco_folder, with --config.data.root=DIR), size=64 (output pixels), low=32 (reference
pixels), tiny (ends in seconds).
The visual tokenizer of quickstart.py or coco_masked.py is trained first, and so is the reference tokenizer, unless
--config.components.reference_tokenizer=DIR names a trained one, such as the workdir of the model whose images are to be
enlarged. `mmjax generate --model=THAT --enlarge=THIS` then samples with both.
"""

import coco_masked
import coco_tokenizer
import quickstart
from ml_collections import ConfigDict

from mmjax.config import parse_arguments
from mmjax.types import UserError


def get_config(argument: str | None = None) -> ConfigDict:
    arg = parse_arguments(argument, source="scenes", size=64, low=32)
    large, small = (f"size={size}" + (",tiny" if arg.tiny else "") for size in (arg.size, arg.low))
    if arg.source == "scenes":
        config = quickstart.get_config(large)
        reference = quickstart.get_config(small).components.visual_tokenizer
        config.evaluate.evaluators = ("losses", "scenes")  # no diversity: the reference determines most
        config.sampling.guidance = 1.0
    elif arg.source == "coco_folder":
        config = coco_masked.get_config(large)
        reference = coco_tokenizer.get_config(small)
        config.sampling.guidance = 2.0
    else:
        raise UserError(f"config argument source: must be scenes or coco_folder, not {arg.source}")
    config.components.reference_tokenizer = reference
    return config
