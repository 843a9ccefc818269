"""The masked model of diffusers, aMUSEd's UVit2DModel (Patil et al. 2024, arXiv:2401.01808), for peers.py.

The same width, heads, layers, grid and codes as the others, behind the same text encoder, and a gated perceptron of as
many parameters. The convolutions before and after the layers are left out; the layers are conditioned by adaptive
normalization as well, so that it has more parameters.
"""

import functools
import math
from typing import Any

import torch
from diffusers import UVit2DModel
from peers_torch import TextEncoder, main, masked_training
from torch import Tensor, nn

MICRO = 5  # conditions of aMUSEd: height and width, top and left of the crop, aesthetic score


class Amused(nn.Module):
    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        width, heads, codes = case["width"], case["heads"], math.prod(case["levels"])
        self.text = TextEncoder(case)
        self.image = UVit2DModel(
            hidden_size=width,
            cond_embed_dim=width,
            micro_cond_encode_dim=256,
            micro_cond_embed_dim=256 * MICRO,
            encoder_hidden_size=width,
            vocab_size=codes + 1,
            codebook_size=codes,
            in_channels=width,
            block_out_channels=width,
            num_res_blocks=0,
            block_num_heads=heads,
            num_hidden_layers=case["layers"],
            num_attention_heads=heads,
            intermediate_size=8 * width // 3,
            sample_size=case["grid"],
        )
        self.register_buffer("micro", torch.tensor([512.0, 512.0, 0.0, 0.0, 6.0]))
        self.mask = codes

    def forward(self, text: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
        context, _ = self.text(text)
        codes = codes.masked_fill(masked, self.mask)
        logits = self.image(codes, context, context[:, 0], self.micro.expand(len(text), -1))
        return logits.flatten(2).transpose(1, 2)


if __name__ == "__main__":
    main({"train": functools.partial(masked_training, kind=Amused)})
