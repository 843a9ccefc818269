"""Visual tokenizers: images or clips to grids of codes, and back."""

import functools
from typing import Any

import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from mmjax import models
from mmjax.export.loaded import LoadedModel
from mmjax.models import visual_tokenizer
from mmjax.sample.chunks import per_example
from mmjax.sample.editing import images_of
from mmjax.sample.postprocess import to_uint8
from mmjax.types import UserError


class ImageTokenizer(LoadedModel):
    """A visual tokenizer. Images are uint8, or float32 from -1 to 1, of the config's size."""

    def encode(self, images: Shaped[np.ndarray, "n *pixels 3"]) -> Int32[np.ndarray, "n *grid"]:
        """Encodes images or clips to grids of codes from 0 to the product of the levels.

        Raises:
            UserError: for images of the wrong shape or range.
        """
        shape = models.inputs(self.config)["image"].shape[1:]
        count = len(images) if hasattr(images, "__len__") else 0
        if not count:
            raise UserError(f"images: must be uint8 or float32 {['n', *shape]}, of at least one")
        return self._encode(self.params, images_of("images", images, (count, *shape)))

    def decode(self, codes: Shaped[np.ndarray, "n *grid"]) -> UInt8[np.ndarray, "n *pixels 3"]:
        """Decodes grids of integer codes to images or clips.

        Raises:
            UserError: for another grid, or codes out of range.
        """
        grid, count = visual_tokenizer.grid(self.config), int(np.prod(visual_tokenizer.levels(self.config)))
        codes = np.asarray(codes)
        if codes.ndim == 0 or codes.shape[1:] != grid or not len(codes) or not np.issubdtype(codes.dtype, np.integer):
            raise UserError(f"codes: must be whole numbers {['n', *grid]}, not {codes.dtype} {list(codes.shape)}")
        if codes.min() < 0 or codes.max() >= count:
            raise UserError(f"codes: must be from 0 to {count - 1}, not {codes.min()} to {codes.max()}")
        images = self._decode(self.params, codes.astype(np.int32))
        frames = self.config.data.frames
        return to_uint8(images[:, :frames] if images.ndim == 5 else images)

    @functools.cached_property
    def _encode(self) -> Any:
        module = models.build(self.config, self.compute)
        return per_example(lambda params, image: module.apply({"params": params}, image, method="encode"))

    @functools.cached_property
    def _decode(self) -> Any:
        module = models.build(self.config, self.compute)
        return per_example(lambda params, codes: module.apply({"params": params}, codes, method="decode"))
