"""The models of peers.py in plain PyTorch, as somebody who knows it well would write them; run by peers.py.

Same layers, sizes, data shapes, optimizer and losses as in mmjax. It reads "build NAME SIZES" and "run COUNT" from
standard input, and answers with the number of parameters, or the seconds of COUNT iterations.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos(length: int, width: int) -> Tensor:
    angle = torch.arange(length)[:, None] * 10_000 ** (-torch.arange(0, width, 2) / width)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rope_angles(sides: tuple[int, ...], features: int) -> Tensor:
    each = features // (2 * len(sides))
    frequency = 100.0 ** (-torch.arange(each) / each)
    places = torch.stack(torch.meshgrid(*map(torch.arange, sides), indexing="ij"), dim=-1)
    return (places[..., None] * frequency).reshape(math.prod(sides), -1)


def apply_rope(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates [b, h, t, k] by the (cosine, sine) of each position."""
    cosine, sine = angles
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None, angles: Any = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.split(self.q(x)), self.split(self.k(context)), self.split(self.v(context))
        if angles is not None:
            q, k = apply_rope(q, angles), apply_rope(k, angles)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.norm_self, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        if cross:
            self.norm_cross, self.cross_attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross = cross
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Any, angles: Any, context: Any = None, context_mask: Any = None) -> Tensor:
        x = x + self.self_attention(self.norm_self(x), None, mask, angles)
        if self.cross:
            x = x + self.cross_attention(self.norm_cross(x), context, context_mask)
        return x + self.mlp(self.norm_mlp(x))


class TextEncoder(nn.Module):
    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        width, heads = case["width"], case["heads"]
        self.embedding = nn.Embedding(case["vocabulary"], width)
        self.blocks = nn.ModuleList(Block(width, heads, cross=False) for _ in range(case["text_layers"]))
        self.norm = nn.LayerNorm(width)
        angles = rope_angles((case["length"],), width // heads)
        for name, value in (("sincos", sincos(case["length"], width)), ("cos", angles.cos()), ("sin", angles.sin())):
            self.register_buffer(name, value)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        mask = text != 0
        mask[:, 0] = True
        mask = mask[:, None, None]
        x = self.embedding(text) + self.sincos
        for block in self.blocks:
            x = block(x, mask, (self.cos, self.sin))
        return self.norm(x), mask


class MaskedGenerator(nn.Module):
    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        width, heads, grid = case["width"], case["heads"], case["grid"]
        codes = math.prod(case["levels"])
        self.width, self.grid = width, grid
        self.context = TextEncoder(case)
        self.codes = nn.Parameter(0.5 * torch.randn(codes, width))
        self.digits = nn.ParameterList(0.5 * torch.randn(level, width) for level in case["levels"])
        places = torch.stack(torch.unravel_index(torch.arange(codes), case["levels"][::-1]), dim=1).flip(1)
        self.register_buffer("places", places)
        self.mask = nn.Parameter(0.5 * torch.randn(width))
        self.row, self.column = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.blocks = nn.ModuleList(Block(width, heads, cross=True) for _ in range(case["layers"]))
        self.norm, self.head, self.head_norm = nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(codes))
        angles = rope_angles((grid, grid), width // heads)
        for name, value in (("sincos", sincos(grid, width)), ("cos", angles.cos()), ("sin", angles.sin())):
            self.register_buffer(name, value)

    def logits(self, codes: Tensor, masked: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        embedding = self.codes + sum(digit[self.places[:, i]] for i, digit in enumerate(self.digits))
        x = torch.where(masked[..., None], self.mask, F.embedding(codes, embedding))
        x = x + self.row(self.sincos)[:, None] + self.column(self.sincos)
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, None, (self.cos, self.sin), context, context_mask)
        x = self.head_norm(F.gelu(self.head(self.norm(x)), approximate="tanh"))
        return F.linear(x, embedding * self.width**-0.5, self.bias)

    def forward(self, text: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
        return self.logits(codes, masked, *self.context(text))


def mask_codes(codes: Tensor) -> Tensor:
    """Masks a cosine-distributed number of each example's codes."""
    count, flat = len(codes), codes.flatten(1)
    uniform = (torch.randperm(count, device=codes.device) + torch.rand(count, device=codes.device)) / count
    number = (torch.cos(uniform * math.pi / 2) * flat.shape[1]).ceil().clamp(min=1)
    ranks = torch.rand(flat.shape, device=codes.device).argsort(1).argsort(1)
    return (ranks < number[:, None]).reshape(codes.shape)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm_first, self.norm_second = LayerNorm2d(width), LayerNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.norm_second(self.first(F.silu(self.norm_first(x))))))


class VisualTokenizer(nn.Module):
    """Finite scalar quantization between a convolutional encoder and decoder."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        widths, levels = case["widths"], case["levels"]
        inner, channels = [], 3
        for width in widths:
            inner += [nn.Conv2d(channels, width, 4, 2, 1)] + [ResidualBlock(width) for _ in range(case["blocks"])]
            channels = width
        self.encoder = nn.Sequential(*inner, LayerNorm2d(channels))
        self.to_codes, self.from_codes = nn.Conv2d(channels, len(levels), 1), nn.Conv2d(len(levels), channels, 1)
        outer: list[nn.Module] = []
        for width in (*widths[-2::-1], widths[0]):
            outer += [ResidualBlock(channels) for _ in range(case["blocks"])]
            outer += [nn.ConvTranspose2d(channels, width, 4, 2, 1), LayerNorm2d(width), nn.GELU("tanh")]
            channels = width
        self.decoder = nn.Sequential(*outer, nn.Conv2d(channels, 3, 3, padding=1))
        half = (torch.tensor(levels) - 1) * (1 - 1e-3) / 2
        offset = torch.where(torch.tensor(levels) % 2 == 0, 0.5, 0.0)
        for name, value in (("reach", half), ("offset", offset), ("shift", torch.atanh(offset / half))):
            self.register_buffer(name, value[:, None, None])
        self.register_buffer("scale", (torch.tensor(levels) // 2)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        z = self.to_codes(self.encoder(image))
        z = torch.tanh(z + self.shift) * self.reach - self.offset
        z = (z + (z.round() - z).detach()) / self.scale
        return self.decoder(self.from_codes(z))


class Captioner(nn.Module):
    """A vision transformer and a causal decoder with cross-attention and a cache of keys and values."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        width, heads, patch = case["width"], case["heads"], case["patch"]
        self.width, self.heads, self.case = width, heads, case
        tokens = (case["size"] // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.image_blocks = nn.ModuleList(Block(width, heads, cross=False) for _ in range(case["layers"]))
        self.image_norm = nn.LayerNorm(width)
        self.embedding = nn.Parameter(torch.randn(case["vocabulary"], width))
        self.register_buffer("places", sincos(case["length"], width))
        self.blocks = nn.ModuleList(Block(width, heads, cross=True) for _ in range(case["decoder_layers"]))
        self.norm = nn.LayerNorm(width)
        angles = rope_angles((case["length"],), width // heads)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())

    def encode(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.position
        for block in self.image_blocks:
            x = block(x, None, None)
        return self.image_norm(x)

    def step(self, token: Tensor, place: Tensor, caches: list[tuple[Tensor, ...]]) -> Tensor:
        """Logits after one more token.

        Args:
            place: of the token, [1]: a tensor, so that one compiled program serves all.
            caches: keys and values of self-attention and of the image, for each block.
        """
        x = (self.embedding[token] + self.places[place])[:, None]
        angles = self.cosine[place], self.sine[place]
        mask = (torch.arange(len(self.places), device=place.device) <= place)[None, None, None]
        for block, (keys, values, image_keys, image_values) in zip(self.blocks, caches, strict=True):
            attention, normed = block.self_attention, block.norm_self(x)
            q = apply_rope(attention.split(attention.q(normed)), angles)
            keys.index_copy_(2, place, apply_rope(attention.split(attention.k(normed)), angles))
            values.index_copy_(2, place, attention.split(attention.v(normed)))
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = x + attention.out(attended.transpose(1, 2).flatten(2))
            attention = block.cross_attention
            q = attention.split(attention.q(block.norm_cross(x)))
            attended = F.scaled_dot_product_attention(q, image_keys, image_values)
            x = x + attention.out(attended.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm_mlp(x))
        return F.linear(self.norm(x[:, 0]), self.embedding * self.width**-0.5)

    def caption(self, image: Tensor) -> Tensor:
        features, length = self.encode(image), self.case["length"]
        caches = []
        for block in self.blocks:
            a = block.cross_attention
            empty = torch.zeros(len(image), self.heads, length, self.width // self.heads, device=image.device)
            caches.append((empty, empty.clone(), a.split(a.k(features)), a.split(a.v(features))))
        token, tokens = torch.ones(len(image), dtype=torch.long, device=image.device), []
        for place in torch.arange(length, device=image.device).split(1):
            token = self.step(token, place, caches).argmax(-1)
            tokens.append(token)
        return torch.stack(tokens, dim=1)


def training(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Any]:
    """One step of AdamW with clipping and a moving average of the parameters."""
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0, fused=True)
    ema = [p.detach().clone() for p in params]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, params, 0.01)
        return value.item()

    return step


def masked_training(
    case: dict[str, Any], compiled: bool, device: str, kind: type[nn.Module] = MaskedGenerator
) -> tuple[nn.Module, Callable[[], Any]]:
    """A training of a model that gives logits [b, t, c] for texts [b, l], codes and where they are masked [b, y, x]."""
    model = kind(case).to(device)
    forward = torch.compile(model) if compiled else model
    b, grid = case["batch"], case["grid"]
    text = torch.randint(3, case["vocabulary"], (b, case["length"]), device=device)
    codes = torch.randint(math.prod(case["levels"]), (b, grid, grid), device=device)

    def loss() -> Tensor:
        masked = mask_codes(codes)
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            logits = forward(text, codes, masked)
        each = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="none", label_smoothing=0.1)
        each, weight = each.reshape(b, -1), torch.where(masked, 1.0, 0.1).flatten(1)
        return ((each * weight).sum(1) / weight.sum(1)).mean()

    return model, training(model, loss)


def masked_sampling(case: dict[str, Any], compiled: bool, device: str) -> tuple[nn.Module, Callable[[], Any]]:
    model, tokenizer = MaskedGenerator(case).to(device), VisualTokenizer(case).to(device)
    logits_of = torch.compile(model.logits) if compiled else model.logits
    b, grid, steps, tokens = case["batch"], case["grid"], case["steps"], case["grid"] ** 2
    text = torch.randint(3, case["vocabulary"], (b, case["length"]), device=device)
    scale, levels = tokenizer.scale, case["levels"]

    @torch.inference_mode()
    def sample() -> Tensor:
        context = model.context(torch.cat([text, torch.zeros_like(text)]))
        codes = torch.zeros(b, tokens, dtype=torch.long, device=device)
        masked = torch.ones(b, tokens, dtype=torch.bool, device=device)
        for step in range(steps):
            both = (
                torch.cat([codes, codes]).reshape(-1, grid, grid),
                torch.cat([masked, masked]).reshape(-1, grid, grid),
            )
            with_text, without = logits_of(*both, *context).chunk(2)
            scores = without + 2.0 * (with_text - without)
            drawn = (scores - torch.empty_like(scores).exponential_().log()).argmax(-1)
            confidence = scores.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
            codes = torch.where(masked, drawn, codes)
            noise = -torch.empty_like(confidence).exponential_().log()
            confidence = (confidence + (1 - (step + 1) / steps) * noise).masked_fill(~masked, math.inf)
            left = int(tokens * math.cos((step + 1) / steps * math.pi / 2) + 1e-4) if step < steps - 1 else 0
            masked = confidence.argsort(1).argsort(1) < left
        digits, rest = [], codes.reshape(b, grid, grid)
        for level in levels:
            digits.append(rest % level)
            rest = rest // level
        z = (torch.stack(digits, dim=1) - scale) / scale
        return tokenizer.decoder(tokenizer.from_codes(z.float()))

    return model, lambda: sample().sum().item()


def tokenizer_training(case: dict[str, Any], compiled: bool, device: str) -> tuple[nn.Module, Callable[[], Any]]:
    model = VisualTokenizer(case).to(device, memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    image = torch.rand(case["batch"], 3, case["size"], case["size"], device=device) * 2 - 1
    image = image.to(memory_format=torch.channels_last)

    def loss() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            error = forward(image) - image
        return error.abs().mean() + error.square().mean()

    return model, training(model, loss)


def captioning(case: dict[str, Any], compiled: bool, device: str) -> tuple[nn.Module, Callable[[], Any]]:
    model = Captioner(case).to(device)
    if compiled:
        model.encode, model.step = torch.compile(model.encode), torch.compile(model.step)
    image = torch.rand(case["batch"], 3, case["size"], case["size"], device=device) * 2 - 1
    return model, lambda: torch.inference_mode()(model.caption)(image).sum().item()


BUILD = {"train": masked_training, "sample": masked_sampling, "tokenizer": tokenizer_training, "caption": captioning}


def main(build: Mapping[str, Callable[..., tuple[nn.Module, Callable[[], Any]]]]) -> None:
    """Answers what peers.py asks, with the models of a table by the first part of their names."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    step: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        order, value = line.split(maxsplit=1)
        if order == "build":
            name, sizes = value.split(maxsplit=1)
            model, step = build[name.partition("/")[0]](json.loads(sizes), sys.argv[1] == "compiled", device)
            for _ in range(2):
                step()
            answer: Any = sum(p.numel() for p in model.parameters())
        else:
            start = time.perf_counter()
            for _ in range(int(value)):
                step()
            answer = time.perf_counter() - start
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(BUILD)
