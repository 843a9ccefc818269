"""Writes folders beside this file as make.py does: of autoencoders by diffusers, of ResNet by transformers and
torchvision, and of SigLIP in the names of big_vision, from the folder that make.py wrote.

    python tests/references/make_others.py [NAME ...]
"""

import json
import re
import shutil
import sys

import diffusers
import numpy as np
import timm
import torch
import torchvision
import transformers as hf
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from make import HERE, image_of, randomized, write
from safetensors.numpy import save_file


def channels_last(x):
    """Channels last."""
    return x.permute(0, 2, 3, 1)


def latents_case(name, model, normalize, restore, **posterior):
    """An autoencoder, whose latents `normalize` scales and `restore` brings back."""
    image = image_of(16, 8)
    encoded = model.encode(torch.tensor(image).permute(0, 3, 1, 2))
    if "latents" in encoded:
        mean = encoded.latents
    else:
        mean = encoded.latent_dist.mean
        posterior = {"mean": channels_last(mean), "log_variance": channels_last(encoded.latent_dist.logvar)}
    latents = normalize(mean)
    other = 1.5 * latents.flip(0)
    decoded = channels_last(model.decode(restore(other)).sample)
    write(
        name,
        model,
        {"image": image},
        latents=channels_last(latents),
        other_latents=channels_last(other),
        decoded=decoded,
        **posterior,
    )


def original_names(state, levels):
    """The tensors of an AutoencoderKL in the names of the original code, behind first_stage_model."""
    words = [
        (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2"),
        (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
        (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block.{m[2]}"),
        (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.upsample"),
        (r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    tensors = {}
    for name, tensor in state.items():
        for pattern, word in words:
            name = re.sub(pattern, word, name)
        is_linear = ".attn_1." in name and name.endswith("weight") and ".norm." not in name
        tensors[f"first_stage_model.{name}"] = tensor[:, :, None, None] if is_linear else tensor
    return tensors


def autoencoder_kl():
    def blocks(count):
        return {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}

    widths = (4, 6, 10)
    sizes = {**blocks(3), "block_out_channels": widths, "norm_num_groups": 2, "latent_channels": 3}
    model = randomized(diffusers.AutoencoderKL(**sizes))
    latents_case("autoencoder_kl", model, lambda z: z * 0.18215, lambda z: z / 0.18215)
    scaling = {"latents_mean": (-0.4, 0.3, 0.7), "latents_std": (0.5, 2.0, 1.1), "scaling_factor": 0.5}
    mean, deviation = (torch.tensor(scaling[each])[None, :, None, None] for each in ("latents_mean", "latents_std"))
    model = randomized(diffusers.AutoencoderKL(**sizes, **scaling, mid_block_add_attention=False))
    latents_case(
        "autoencoder_kl_statistics",
        model,
        lambda z: (z - mean) * 0.5 / deviation,
        lambda z: z * deviation / 0.5 + mean,
    )
    # As of FLUX.1, and its weights as in a whole checkpoint of the original code, checked by diffusers' conversion.
    scaling = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False}
    config = {**sizes, **scaling, "layers_per_block": 2}
    model = randomized(diffusers.AutoencoderKL(**config))
    latents_case("autoencoder_kl_original", model, lambda z: (z - 0.1159) * 0.3611, lambda z: z / 0.3611 + 0.1159)
    state = model.state_dict()
    tensors = original_names(state, len(widths))
    back = convert_ldm_vae_checkpoint(tensors, config)
    assert back.keys() == state.keys() and all(torch.equal(back[key].reshape(x.shape), x) for key, x in state.items())
    arrays = {key: np.ascontiguousarray(tensor.numpy()) for key, tensor in tensors.items()}
    save_file(arrays, HERE / "autoencoder_kl_original" / "diffusion_pytorch_model.safetensors")
    flux2(blocks)


def flux2(blocks):
    torch.manual_seed(3)
    model = diffusers.AutoencoderKLFlux2(
        **blocks(2), block_out_channels=(4, 6), decoder_block_out_channels=(6, 8), norm_num_groups=2, latent_channels=3
    )
    randomized(model)
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.2, 3)
    mean = model.bn.running_mean[None, :, None, None]
    deviation = torch.sqrt(model.bn.running_var + model.config.batch_norm_eps)[None, :, None, None]
    pipeline = diffusers.Flux2Pipeline
    latents_case(
        "autoencoder_kl_flux2",
        model,
        lambda z: (pipeline._patchify_latents(z) - mean) / deviation,
        lambda z: pipeline._unpatchify_latents(z * deviation + mean),
    )


def autoencoder_tiny():
    model = randomized(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(6, 6, 6),
            decoder_block_out_channels=(6, 6, 6),
            num_encoder_blocks=(1, 2, 1),
            num_decoder_blocks=(2, 1, 1),
            latent_channels=3,
            scaling_factor=0.9,
            shift_factor=0.2,
        )
    )
    latents_case("autoencoder_tiny", model, lambda z: (z - 0.2) * 0.9, lambda z: z / 0.9 + 0.2)


def with_statistics(model):
    """The model with other statistics of its batch normalizations than the initial ones."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            module.num_batches_tracked.fill_(7)
    return model


class SmallResNet(torchvision.models.ResNet):
    """torchvision's network with basic blocks of few channels, which its options do not offer."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self._norm_layer, self.inplanes, self.dilation, self.groups, self.base_width = torch.nn.BatchNorm2d, 5, 1, 1, 64
        self.conv1 = torch.nn.Conv2d(3, 5, 7, 2, 3, bias=False)
        self.bn1, self.relu = torch.nn.BatchNorm2d(5), torch.nn.ReLU()
        self.maxpool = torch.nn.MaxPool2d(3, 2, 1)
        block = torchvision.models.resnet.BasicBlock
        self.layer1, self.layer2 = self._make_layer(block, 5, 2), self._make_layer(block, 10, 1, stride=2)
        self.layer3 = self.layer4 = torch.nn.Identity()
        self.avgpool, self.fc = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(10, 3)


def resnet():
    """In the names of transformers, and in those of torchvision, which are timm's."""
    image = image_of(33, 20)
    pixels = torch.tensor(image).permute(0, 3, 1, 2)
    labels = {"id2label": {0: "cat", 1: "dog", 2: "horse"}}
    sizes = {"embedding_size": 3, "hidden_sizes": [12, 24], "depths": [2, 1]}
    model = with_statistics(randomized(hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, **labels))))
    out = model.resnet(pixels)
    tokens, pooled = out.last_hidden_state.flatten(2).mT, out.pooler_output[..., 0, 0]
    write("resnet", model, {"image": image}, image_tokens=tokens, image_pooled=pooled, logits=model(pixels).logits)
    model = with_statistics(randomized(SmallResNet()))
    maps = []
    model.layer2.register_forward_hook(lambda module, given, out: maps.append(out))
    logits, tokens = model(pixels), maps[0].flatten(2).mT
    config = hf.ResNetConfig(embedding_size=5, hidden_sizes=[5, 10], depths=[2, 1], layer_type="basic", **labels)
    outputs = {"image_tokens": tokens, "image_pooled": tokens.mean(1), "logits": logits}
    folder = HERE / "resnet_torchvision"
    write("resnet_torchvision", config, {"image": image}, **outputs)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shapes = {}
    for name in ("resnet18", "resnet50"):
        shapes[name] = {key: list(x.shape) for key, x in timm.create_model(name).state_dict().items()}
        assert shapes[name] == {
            key: list(x.shape) for key, x in torchvision.models.get_model(name).state_dict().items()
        }
    (HERE / "timm.json").write_text(json.dumps(shapes))


def big_vision_names(state, config):
    """The tensors of a SiglipModel in the names and layouts of big_vision's npz files."""
    words = {
        "layer_norm1": "LayerNorm_0",
        "layer_norm2": "LayerNorm_1",
        "mlp.fc1": "MlpBlock_0/Dense_0",
        "mlp.fc2": "MlpBlock_0/Dense_1",
        **{f"self_attn.{n[0]}_proj": f"MultiHeadDotProductAttention_0/{n}" for n in ("query", "key", "value")},
        "self_attn.out_proj": "MultiHeadDotProductAttention_0/out",
    }
    heads = config.num_attention_heads
    arrays = {}

    def add(name, tensor, kind):
        x = tensor.numpy()
        if kind == "weight" and x.ndim == 2:
            x = x.T  # [in, out]
        if "MultiHead" in name and "/out" not in name:
            x = x.reshape(*x.shape[:-1], heads, -1)
        elif "MultiHead" in name and kind == "weight":
            x = x.reshape(heads, -1, x.shape[-1])
        leaf = "scale" if "norm" in name.lower() else "kernel"
        arrays[f"params/{name}/{leaf if kind == 'weight' else 'bias'}"] = np.ascontiguousarray(x)

    for tower, place in (("vision", "img/Transformer"), ("text", "txt/Encoder_0")):
        for name, tensor in state.items():
            layer = re.fullmatch(rf"{tower}_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
            if layer:
                add(f"{place}/encoderblock_{layer[1]}/{words[layer[2]]}", tensor, layer[3])
    for place, name in (
        ("img/Transformer/encoder_norm", "vision_model.post_layernorm"),
        ("img/MAPHead_0/LayerNorm_0", "vision_model.head.layernorm"),
        ("img/MAPHead_0/MlpBlock_0/Dense_0", "vision_model.head.mlp.fc1"),
        ("img/MAPHead_0/MlpBlock_0/Dense_1", "vision_model.head.mlp.fc2"),
        ("img/MAPHead_0/MultiHeadDotProductAttention_0/out", "vision_model.head.attention.out_proj"),
        ("txt/Encoder_0/encoder_norm", "text_model.final_layer_norm"),
        ("txt/head", "text_model.head"),
    ):
        for kind in ("weight", "bias"):
            add(place, state[f"{name}.{kind}"], kind)
    for i, name in enumerate(("query", "key", "value")):
        for kind in ("weight", "bias"):
            part = state[f"vision_model.head.attention.in_proj_{kind}"].chunk(3)[i]
            add(f"img/MAPHead_0/MultiHeadDotProductAttention_0/{name}", part, kind)
    patches = state["vision_model.embeddings.patch_embedding.weight"].permute(2, 3, 1, 0)
    whole = {
        "img/MAPHead_0/probe": state["vision_model.head.probe"],
        "img/embedding/kernel": patches,
        "img/embedding/bias": state["vision_model.embeddings.patch_embedding.bias"],
        "img/pos_embedding": state["vision_model.embeddings.position_embedding.weight"][None],
        "txt/pos_embedding": state["text_model.embeddings.position_embedding.weight"][None],
        "txt/Embed_0/embedding": state["text_model.embeddings.token_embedding.weight"],
        "t": state["logit_scale"],
        "b": state["logit_bias"],
    }
    arrays |= {f"params/{name}": np.ascontiguousarray(tensor.numpy()) for name, tensor in whole.items()}
    return arrays


def siglip_big_vision():
    """The model of make.py in the names of big_vision, for which transformers has no conversion to call."""
    model = hf.SiglipModel.from_pretrained(HERE / "siglip")
    folder = HERE / "siglip_big_vision"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "model.npz", **big_vision_names(model.state_dict(), model.config.vision_config))
    for name in ("config.json", "reference.safetensors"):
        shutil.copyfile(HERE / "siglip" / name, folder / name)


if __name__ == "__main__":
    for function in (autoencoder_kl, autoencoder_tiny, resnet, siglip_big_vision):
        if len(sys.argv) == 1 or function.__name__ == sys.argv[1]:
            function()
