"""Every choice of the network as one frozen value, without torch; `model.py` builds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

BOOSTER_STAGES = ("stem", "s3", "s4", "s5")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Every choice of the network. The defaults are the paper's BiSeNetV2.

    Attributes:
        num_classes: number of classes N of the logits.
        detail_channels: widths of the Detail Branch stages S1, S2, S3 (paper, Table 1).
        semantic_ratio: λ, the width of the Semantic Branch relative to the Detail Branch in the
            stem and S3 (paper, section 4.2). S4 and S5 keep their widths: the aggregation needs S5
            at the Detail Branch's, and only so do the cost deltas of the λ ablation come out.
        width: α of BiSeNetV2-Large; multiplies the widths of both branches.
        depth: d of BiSeNetV2-Large; repeats each stride-1 gather-and-expansion layer d times.
        expansion: ε of the gather-and-expansion layer (paper, Table 1: 6).
        expand_with: which convolution of the gather-and-expansion layer widens to ε·C.
            `depthwise`, as in CoinCheung/BiSeNet, mmsegmentation and PaddleSeg, whose published
            scores are the ones that could be reproduced; `conv` widens in the full 3x3 before it,
            which fits the cost deltas of the paper's λ ablation but has no public score.
        relu_after_depthwise: a ReLU after the last depthwise convolution (CoinCheung,
            mmsegmentation: yes; the paper's figure and PaddleSeg: no). Off: with it the layer is no
            longer the linear bottleneck that the paper draws.
        context_norm: batch norm and ReLU after the context embedding's last 3x3 (CoinCheung,
            mmsegmentation: yes; paper and PaddleSeg: plain convolution). On: both implementations
            that reached the paper's score have it.
        aggregation_relu: ReLU after the aggregation's last convolution (same two: yes; paper: not
            shown). On, for the same reason.
        aggregation_bias: a bias in the aggregation's last 1x1 convolutions (mmsegmentation,
            PaddleSeg: yes; CoinCheung: no; paper: not shown). Off: nothing is known to be gained.
        aggregation_upsample: `bilinear` (paper, mmsegmentation, PaddleSeg) or `nearest` (CoinCheung
            since September 2020).
        align_corners: bilinear enlargement maps corner pixels to corner pixels, as CoinCheung did
            before that; off, as everywhere else, pixels are areas.
        aggregation: how the branches meet: `bga` (paper, section 4.3) or the ablations `sum` and
            `concat`.
        branches: `both`, or one of the single-branch ablations.
        head_channels: C_t of the segmentation head. The paper does not say; 1024 in CoinCheung
            and mmsegmentation, 128 in PaddleSeg. 1024 costs 54 % more multiply-adds than 128.
        head_shuffle: the head's last convolution makes this many times finer logits per direction,
            by pixel shuffle (CoinCheung, September 2020 to July 2021: 8; elsewhere 1).
        booster_channels: C_t of the booster heads, which exist in training only.
        boosters: stages that carry a booster head (paper, section 4.4); () trains without.
        dropout: before the last 1x1 of each head.
    """

    num_classes: int = 19
    detail_channels: tuple[int, int, int] = (64, 64, 128)
    semantic_ratio: float = 0.25
    width: float = 1.0
    depth: int = 1
    expansion: int = 6
    expand_with: Literal["depthwise", "conv"] = "depthwise"
    relu_after_depthwise: bool = False
    context_norm: bool = True
    aggregation_relu: bool = True
    aggregation_bias: bool = False
    aggregation_upsample: Literal["bilinear", "nearest"] = "bilinear"
    align_corners: bool = False
    aggregation: Literal["bga", "sum", "concat"] = "bga"
    branches: Literal["both", "detail", "semantic"] = "both"
    head_channels: int = 1024
    head_shuffle: int = 1
    booster_channels: int = 128
    boosters: tuple[str, ...] = field(default=BOOSTER_STAGES)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= 255:
            raise ValueError(
                f"num_classes is {self.num_classes}, expected 1..255 (masks are uint8)"
            )
        unknown = sorted(set(self.boosters) - set(BOOSTER_STAGES))
        if unknown:
            raise ValueError(f"boosters names {unknown}, expected some of {list(BOOSTER_STAGES)}")
        choices = {
            "expand_with": ("depthwise", "conv"),
            "aggregation_upsample": ("bilinear", "nearest"),
            "aggregation": ("bga", "sum", "concat"),
            "branches": ("both", "detail", "semantic"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {allowed}")
        if self.head_shuffle not in (1, 2, 4, 8):
            raise ValueError(f"head_shuffle is {self.head_shuffle}, expected 1, 2, 4 or 8")
        for name in (
            "semantic_ratio", "width", "depth", "expansion",
            "head_channels", "booster_channels",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected 0 or more, less than 1")
        widths = (*self.detail_widths, *self.semantic_widths)
        if min(widths) < 2:
            raise ValueError(f"stage widths are {widths}, expected 2 channels or more in each")

    @property
    def detail_widths(self) -> tuple[int, int, int]:
        """Widths of the Detail Branch stages S1, S2, S3."""
        a, b, c = (round(self.width * channels) for channels in self.detail_channels)
        return a, b, c

    @property
    def semantic_widths(self) -> tuple[int, int, int, int]:
        """Widths of the Semantic Branch: stem, S3, S4, S5."""
        first, _, last = self.detail_widths
        ratio = self.semantic_ratio
        return round(ratio * first), round(ratio * last), last // 2, last
