"""BiSeNetV2 as in the paper's Table 1 (arXiv 2004.02147): two branches, their aggregation, a head.

Knows tensors only: a normalized RGB batch in, logits at 1/8 of the input's size out. It knows
nothing of images, class names, losses or files. `export.py` wraps it, from pixels to a mask.

Where the paper is silent or the public implementations disagree, `ModelConfig` has a field for it
and its docstring says why the default is what it is (model_config.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bisenetv2_ros.training.model_config import BOOSTER_STAGES, ModelConfig

#: Standard deviation of a classifier's first weights, as in mmsegmentation's decode heads.
CLASSIFIER_STD = 0.01


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Make a convolution without bias, a batch norm, and by default a ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class DetailBranch(nn.Sequential):
    """Wide and shallow, VGG-like, to 1/8 (paper, section 4.1): (N,3,H,W) -> (N,128,H/8,W/8)."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        s1, s2, s3 = widths
        super().__init__(
            nn.Sequential(conv_bn(3, s1, stride=2), conv_bn(s1, s1)),
            nn.Sequential(conv_bn(s1, s2, stride=2), conv_bn(s2, s2), conv_bn(s2, s2)),
            nn.Sequential(conv_bn(s2, s3, stride=2), conv_bn(s3, s3), conv_bn(s3, s3)),
        )


class StemBlock(nn.Module):
    """Two parallel ways of downsampling (paper, figure 4a): (N,3,H,W) -> (N,C,H/4,W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_bn(3, channels, stride=2)
        self.left = nn.Sequential(
            conv_bn(channels, channels // 2, kernel=1), conv_bn(channels // 2, channels, stride=2)
        )
        self.right = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse = conv_bn(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fuse(torch.cat((self.left(x), self.right(x)), dim=1))


class GatherExpansion(nn.Module):
    """Gather-and-expansion layer of stride 1 or 2 (paper, figure 5b and 5c)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, config: ModelConfig
    ) -> None:
        super().__init__()
        wide = config.expansion * in_channels
        gathered = wide if config.expand_with == "conv" else in_channels
        relu = config.relu_after_depthwise
        layers = [conv_bn(in_channels, gathered)]
        if stride == 2:
            # the first depthwise convolution downsamples, the second gathers at the smaller size
            layers.append(conv_bn(gathered, wide, stride=2, groups=gathered, relu=False))
            layers.append(conv_bn(wide, wide, groups=wide, relu=relu))
        else:
            layers.append(conv_bn(gathered, wide, groups=gathered, relu=relu))
        self.body = nn.Sequential(*layers, conv_bn(wide, out_channels, kernel=1, relu=False))
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(
                conv_bn(in_channels, in_channels, stride=2, groups=in_channels, relu=False),
                conv_bn(in_channels, out_channels, kernel=1, relu=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """The global average, added to every pixel (paper, figure 4b): shape unchanged."""

    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.project = conv_bn(channels, channels, kernel=1)
        self.last: nn.Module
        if norm:
            self.last = conv_bn(channels, channels)
        else:
            self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        context = self.project(self.norm(x.mean((2, 3), keepdim=True)))
        return self.last(x + context)


class SemanticBranch(nn.Module):
    """Narrow and deep, to 1/32 (paper, section 4.2).

    `forward` returns the features by stage: `stem` (1/4), `s3` (1/8), `s4` (1/16), `s5` (1/32,
    before the context embedding) and `context` (1/32, after it). Boosters read the first four.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        stem, s3, s4, s5 = config.semantic_widths

        def stage(in_channels: int, out_channels: int, repeats: int) -> nn.Sequential:
            return nn.Sequential(
                GatherExpansion(in_channels, out_channels, 2, config),
                *(GatherExpansion(out_channels, out_channels, 1, config) for _ in range(repeats)),
            )

        self.stem = StemBlock(stem)
        self.s3 = stage(stem, s3, config.depth)
        self.s4 = stage(s3, s4, config.depth)
        self.s5 = stage(s4, s5, 3 * config.depth)
        self.context = ContextEmbedding(s5, config.context_norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for name in ("stem", "s3", "s4", "s5", "context"):
            x = getattr(self, name)(x)
            features[name] = x
        return features


def upsample(x: Tensor, like: Tensor, config: ModelConfig) -> Tensor:
    """Enlarge (N,C,h,w) to the height and width of another tensor, 1/32 to 1/8, as configured."""
    # plain integers, so that an exported graph holds them as constants
    height, width = int(like.shape[2]), int(like.shape[3])
    whole = (4 * int(x.shape[2]), 4 * int(x.shape[3])) == (height, width)
    target: dict[str, Any] = {"scale_factor": 4.0} if whole else {"size": (height, width)}
    if config.aggregation_upsample == "nearest":
        return F.interpolate(x, mode="nearest", **target)
    return F.interpolate(x, mode="bilinear", align_corners=config.align_corners, **target)


class BilateralGuidedAggregation(nn.Module):
    """Each branch guides the other at its own scale (paper, section 4.3 and figure 6).

    detail (N,C,H/8,W/8) and semantic (N,C,H/32,W/32) -> (N,C,H/8,W/8).
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        bias = config.aggregation_bias
        self.detail_keep = nn.Sequential(
            conv_bn(channels, channels, groups=channels, relu=False),
            nn.Conv2d(channels, channels, 1, bias=bias),
        )
        self.detail_down = nn.Sequential(
            conv_bn(channels, channels, stride=2, relu=False),
            nn.AvgPool2d(3, stride=2, padding=1),
        )
        self.semantic_up = conv_bn(channels, channels, relu=False)
        self.semantic_keep = nn.Sequential(
            conv_bn(channels, channels, groups=channels, relu=False),
            nn.Conv2d(channels, channels, 1, bias=bias),
        )
        self.last = conv_bn(channels, channels, relu=config.aggregation_relu)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        gate_fine = torch.sigmoid(upsample(self.semantic_up(semantic), detail, self.config))
        gate_coarse = torch.sigmoid(self.semantic_keep(semantic))
        fine = self.detail_keep(detail) * gate_fine
        coarse = self.detail_down(detail) * gate_coarse
        return self.last(fine + upsample(coarse, fine, self.config))


class PlainAggregation(nn.Module):
    """The ablations `sum` and `concat`: upsample the Semantic Branch, join, one 3x3."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        joined = 2 * channels if config.aggregation == "concat" else channels
        self.last = conv_bn(joined, channels, relu=config.aggregation_relu)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        semantic = upsample(semantic, detail, self.config)
        if self.config.aggregation == "concat":
            return self.last(torch.cat((detail, semantic), dim=1))
        return self.last(detail + semantic)


class SegmentationHead(nn.Sequential):
    """3x3 to C_t, dropout, 1x1 to the classes (paper, figure 7): logits at the input's size.

    With `shuffle` f the 1x1 makes f * f values a class, laid out as f x f finer logits.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        classes: int,
        dropout: float,
        shuffle: int = 1,
    ) -> None:
        super().__init__(
            conv_bn(in_channels, mid_channels),
            nn.Dropout(dropout),
            nn.Conv2d(mid_channels, classes * shuffle**2, 1),
        )
        if shuffle > 1:
            self.append(nn.PixelShuffle(shuffle))

    @property
    def classifier(self) -> nn.Conv2d:
        """The last convolution, whose outputs are the logits."""
        return self[2]  # type: ignore[return-value]


class BiSeNetV2(nn.Module):
    """The network: (N,3,H,W) normalized RGB, H and W multiples of 8 -> logits at 1/8.

    In training mode `forward` returns `[main, *boosters]`, the main logits (N,classes,H/8,W/8)
    first and then those of the booster heads at the scale of their stage, in the order of
    `config.boosters`. In evaluation mode it returns the main logits alone; the booster heads take
    no part. `config.head_shuffle` makes the main logits finer than 1/8.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.detail_widths[2]
        if config.branches != "semantic":
            self.detail = DetailBranch(config.detail_widths)
        if config.branches != "detail":
            self.semantic = SemanticBranch(config)
        if config.branches == "both":
            kind = BilateralGuidedAggregation if config.aggregation == "bga" else PlainAggregation
            self.aggregation = kind(channels, config)
        self.head = SegmentationHead(
            channels, config.head_channels, config.num_classes, config.dropout, config.head_shuffle
        )
        widths = dict(zip(BOOSTER_STAGES, config.semantic_widths, strict=True))
        self.boosters = nn.ModuleDict()
        if config.branches != "detail":
            for stage in config.boosters:
                self.boosters[stage] = SegmentationHead(
                    widths[stage], config.booster_channels, config.num_classes, config.dropout
                )
        self.apply(_kaiming_normal)
        for module in self.modules():
            if isinstance(module, SegmentationHead):
                nn.init.normal_(module.classifier.weight, std=CLASSIFIER_STD)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        height, width = x.shape[2:]
        if height % 8 or width % 8:
            raise ValueError(f"input is {width}x{height}, expected multiples of 8")
        stages: dict[str, Tensor] = {}
        if self.config.branches == "detail":
            features = self.detail(x)
        else:
            stages = self.semantic(x)
            if self.config.branches == "semantic":
                features = upsample(stages["context"], stages["s3"], self.config)
            else:
                features = self.aggregation(self.detail(x), stages["context"])
        logits = self.head(features)
        if not self.training:
            return logits
        return [logits, *(head(stages[name]) for name, head in self.boosters.items())]

    def enlarge(self, logits: Tensor) -> Tensor:
        """Bring the main logits to the image's size, (N,C,H/8,W/8) -> (N,C,H,W)."""
        factor = 8 / self.config.head_shuffle
        if factor == 1:
            return logits
        corners = self.config.align_corners
        return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=corners)


def _kaiming_normal(module: nn.Module) -> None:
    """Kaiming normal initialization of the convolutions (paper, section 5.1).

    Not for the classifiers: their fan-out is the number of classes, which would make the first
    logits large and the first losses several times ln C.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Cost:
    """Size of the deployed network, without booster heads."""

    parameters: int  #: trainable
    multiply_adds: int  #: of the convolutions, for one frame


def count_cost(config: ModelConfig, width: int, height: int) -> Cost:
    """Count parameters and convolution multiply-adds at an input of width x height pixels.

    Counted by running the network on the `meta` device: shapes only, no arithmetic.
    """
    multiply_adds = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal multiply_adds
        assert isinstance(module, nn.Conv2d)
        multiply_adds += module.weight.numel() * output.shape[2] * output.shape[3]

    with torch.device("meta"):
        network = BiSeNetV2(config).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        network(torch.empty(1, 3, height, width))
    deployed = (p.numel() for n, p in network.named_parameters() if not n.startswith("boosters."))
    return Cost(parameters=sum(deployed), multiply_adds=multiply_adds)
