"""ResNet (He et al. 2015, arXiv:1512.03385), with or without classifier, in three kinds of names.

Those of transformers (`resnet`), and those of timm and torchvision, for which config.json has timm's `architecture`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.models.resnet import STRIDE, ResNetTrunk
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.pretrained.names import Row, Table, convolution, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec, read_config

# Blocks of timm's architectures, and whether they are basic.
ARCHITECTURES = {
    "resnet18": ((2, 2, 2, 2), True),
    "resnet34": ((3, 4, 6, 3), True),
    "resnet50": ((3, 4, 6, 3), False),
    "resnet101": ((3, 4, 23, 3), False),
    "resnet152": ((3, 8, 36, 3), False),
}
LAYERS = {True: ("first", "second"), False: ("reduce", "spatial", "expand")}
MOST_STAGES = 8


@dataclass(frozen=True)
class ResNetConfig:
    """config.json of transformers, whether the checkpoint has a classifier, and whether its names are those.

    `id2label` are the names of the classes.
    """

    FIXED: ClassVar = {
        "num_channels": 3,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    CHOICES: ClassVar = {"layer_type": ("basic", "bottleneck")}

    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    id2label: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    classifier: bool = True
    hugging_face: bool = True

    num_channels: ClassVar[int] = 3
    image_size: ClassVar[int] = 2 * STRIDE
    patch_size: ClassVar[int] = STRIDE

    def __post_init__(self) -> None:
        if not 1 <= len(self.depths) <= MOST_STAGES:
            raise ValueError(f"depths: must be 1 to {MOST_STAGES} numbers, not {len(self.depths)}")
        first = self.embedding_size * (1 if self.basic else 4)
        wanted = [first * 2**stage for stage in range(len(self.depths))]
        if list(self.hidden_sizes) != wanted:
            raise ValueError(f"hidden_sizes: {list(self.hidden_sizes)[:MOST_STAGES]} is not supported, only {wanted}")

    @property
    def basic(self) -> bool:
        """Whether its blocks are basic ones."""
        return self.layer_type == "basic"


@dataclass(frozen=True)
class TimmConfig:
    """What is read of timm's config.json."""

    num_classes: int = 1000


class ResNet(nn.Module):
    """A residual network. Its tokens are the positions of the last feature map, its pooled feature is their mean."""

    config: ResNetConfig
    compute: Compute = DEFAULT

    @nn.compact
    def encode_image(self, image: Float[Array, "b y x 3"]) -> Encoded:
        """Encodes images."""
        config, compute = self.config, self.compute
        trunk = ResNetTrunk(config.depths, config.embedding_size, compute, config.basic, name="trunk")
        x = trunk(image.astype(compute.dtype))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        pooled = x.mean(axis=1)
        if config.classifier:
            self.sow("classes", "logits", dense(len(config.id2label), compute, "classifier")(pooled))
        return Encoded(x, pooled)


def _normalized(conv: str, normal: str, leaf: str) -> Table:
    """A convolution without bias and its batch normalization."""
    return (
        *convolution(conv, leaf, bias=False),
        *norm(normal, f"{leaf}_norm"),
        Row(f"{normal}.running_mean", f"{leaf}_norm/mean", "d"),
        Row(f"{normal}.running_var", f"{leaf}_norm/variance", "d"),
    )


def _block(config: ResNetConfig, stage: int, i: int) -> Table:
    leaf = f"trunk/stage_{stage}_{i}"
    of_transformers, other = f"encoder.stages.{stage}.layers.{i}", f"layer{stage + 1}.{i}"
    named: list[tuple[str, str, str]] = []
    for k, name in enumerate(LAYERS[config.basic]):
        layer = f"{of_transformers}.layer.{k}"
        both = (f"{layer}.convolution", f"{layer}.normalization")
        named.append((name, *(both if config.hugging_face else (f"{other}.conv{k + 1}", f"{other}.bn{k + 1}"))))
    if i == 0 and (stage > 0 or not config.basic):
        both = (f"{of_transformers}.shortcut.convolution", f"{of_transformers}.shortcut.normalization")
        named.append(
            ("shortcut", *(both if config.hugging_face else (f"{other}.downsample.0", f"{other}.downsample.1")))
        )
    return tuple(row for name, conv, normal in named for row in _normalized(conv, normal, f"{leaf}/{name}"))


def table(config: ResNetConfig) -> Table:
    """The tensors of the parameters."""
    stem = ("embedder.embedder.convolution", "embedder.embedder.normalization")
    conv, normal = stem if config.hugging_face else ("conv1", "bn1")
    places = ((stage, i) for stage, count in enumerate(config.depths) for i in range(count))
    return (
        *_normalized(conv, normal, "trunk/stem"),
        *(row for stage, i in places for row in _block(config, stage, i)),
        *(linear("fc", "classifier") if config.classifier else ()),
    )


def _timm(values: Mapping[str, Any], where: str) -> ResNetConfig:
    depths, basic = ARCHITECTURES[values["architecture"]]
    widths = tuple(64 * (1 if basic else 4) * 2**stage for stage in range(len(depths)))
    classes = tuple(map(str, range(read_config(TimmConfig, values, where).num_classes)))
    return ResNetConfig(64, widths, depths, "basic" if basic else "bottleneck", classes)


def _family(parse: Any) -> FamilySpec:
    return FamilySpec(
        "ResNet",
        ResNetConfig,
        ResNet,
        table,
        ("image",),
        optional={"classifier": "fc.weight", "hugging_face": "embedder.embedder.convolution.weight"},
        renames=((r"^resnet\.", ""), (r"^classifier\.1\.", "fc.")),
        buffers=(r".*\.num_batches_tracked",),
        parse=parse,
    )


FAMILY = _family(None)
TIMM = _family(_timm)
