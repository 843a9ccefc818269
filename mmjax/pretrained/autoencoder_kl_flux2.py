"""The autoencoder of FLUX.2, whose latents are squares of four, scaled by running statistics; `AutoencoderKLFlux2`."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar

from mmjax.pretrained import autoencoder_kl
from mmjax.pretrained.autoencoder_kl import AutoencoderConfig


@dataclass(frozen=True)
class Flux2Config(AutoencoderConfig):
    """config.json; without `decoder_block_out_channels` the decoder has the channels of the encoder."""

    FIXED: ClassVar = {**AutoencoderConfig.FIXED, "patch_size": [2, 2]}

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_block_out_channels: tuple[int, ...] = ()
    layers_per_block: int = 2
    latent_channels: int = 32
    batch_norm_eps: float = 1e-4

    patch: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths("decoder")) != len(self.block_out_channels):
            raise ValueError("decoder_block_out_channels: must be as many numbers as block_out_channels")

    def widths(self, side: str) -> tuple[int, ...]:
        of_decoder = self.decoder_block_out_channels or self.block_out_channels
        return self.block_out_channels if side == "encoder" else of_decoder[::-1]

    def scaling(self) -> str:
        return "squares of four as one, scaled by their running mean and variance"


FAMILY = dataclasses.replace(
    autoencoder_kl.FAMILY,
    name="AutoencoderKLFlux2",
    config=Flux2Config,
    buffers=(r"bn\.num_batches_tracked",),
    parse=functools.partial(autoencoder_kl.parse, Flux2Config),
)
