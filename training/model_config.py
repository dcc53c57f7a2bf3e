"""Every choice of the network as one frozen value, without torch; `model.py` builds it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from bisenetv2_ros.training.settings import Bool, Float, Int, settings, within

BOOSTER_STAGES = ("stem", "s3", "s4", "s5")

Channels = Annotated[Int, within(1, 10_000)]

#: Networks by name, as what differs from the defaults: `model: paper` in a recipe.
NETWORKS: dict[str, dict[str, Any]] = {
    # The defaults: what mmsegmentation trained to 73.2 and 75.8 mIoU on Cityscapes val.
    "mmsegmentation": {},
    # As the paper draws it. At 1024x512 its convolutions have 21.15 x 2^30 multiply-adds, to the
    # last digit of the paper's 21.15 GFlops, and the λ ablation's deltas come out within 0.02. It
    # has no public score.
    "paper": {
        "expand_with": "conv",
        "relu_after_depthwise": False,
        "context_norm": False,
        "aggregation_relu": False,
        "aggregation_bias": False,
        "head_channels": 512,
    },
    # The network of the package's own weights.
    "shipped": {
        "relu_after_depthwise": False,
        "aggregation_bias": False,
        "head_channels": 128,
        "head_shuffle": 2,
    },
}


@settings
class ModelConfig:
    """Every choice of the network. The defaults are BiSeNetV2 (arXiv 2004.02147) as mmsegmentation
    trained it to a published score; NETWORKS has others by name, such as the paper's.

    The paper leaves some choices open, and public implementations differ in them; the fields say
    who does what.
    """

    num_classes: Annotated[Int, within(1, 255)] = 19
    """Number of classes N of the logits; masks are uint8."""

    detail_channels: tuple[Channels, Channels, Channels] = (64, 64, 128)
    """Widths of the Detail Branch stages S1, S2, S3 (paper, Table 1)."""

    semantic_ratio: Annotated[Float, within(1e-3, 100)] = 0.25
    """λ, the width of the Semantic Branch relative to the Detail Branch in the stem and S3 (paper,
    section 4.2). S4 and S5 keep their widths: the aggregation needs S5 at the Detail Branch's, and
    only so do the cost deltas of the λ ablation come out."""

    width: Annotated[Float, within(1e-3, 100)] = 1.0
    """α of BiSeNetV2-Large; multiplies the widths of both branches."""

    depth: Annotated[Int, within(1, 100)] = 1
    """d of BiSeNetV2-Large; repeats each stride-1 gather-and-expansion layer d times."""

    expansion: Annotated[Int, within(1, 100)] = 6
    """ε of the gather-and-expansion layer (paper, Table 1)."""

    expand_with: Literal["depthwise", "conv"] = "depthwise"
    """Which convolution of the gather-and-expansion layer widens to ε·C. `depthwise`: as in
    CoinCheung/BiSeNet, mmsegmentation and PaddleSeg, whose published scores have been reproduced.
    `conv`: the full 3x3 before it, which fits the cost deltas of the paper's λ ablation but has no
    public score."""

    relu_after_depthwise: Bool = True
    """A ReLU after the last depthwise convolution (CoinCheung, mmsegmentation: yes; the paper's
    figure and PaddleSeg: no). With it the layer is not the linear bottleneck that the paper
    draws."""

    context_norm: Bool = True
    """Batch norm and ReLU after the context embedding's last 3x3 (CoinCheung, mmsegmentation: yes;
    paper and PaddleSeg: plain convolution). Both implementations that reached the paper's score
    have it."""

    aggregation_relu: Bool = True
    """A ReLU after the aggregation's last convolution (the same two: yes; paper: not shown)."""

    aggregation_bias: Bool = True
    """A bias in the aggregation's last 1x1 convolutions (mmsegmentation, PaddleSeg: yes;
    CoinCheung: no; paper: not shown). No gain is known."""

    aggregation_upsample: Literal["bilinear", "nearest"] = "bilinear"
    """`bilinear` (paper, mmsegmentation, PaddleSeg) or `nearest` (CoinCheung since September
    2020)."""

    align_corners: Bool = False
    """Bilinear upsampling maps corner pixels to corner pixels, as CoinCheung did before that; off,
    as everywhere else, pixels are areas."""

    aggregation: Literal["bga", "sum", "concat"] = "bga"
    """How the branches meet: `bga` (paper, section 4.3) or the ablations."""

    branches: Literal["both", "detail", "semantic"] = "both"
    """`both`, or one of the single-branch ablations."""

    head_channels: Channels = 1024
    """C_t of the segmentation head. The paper does not say; 1024 in CoinCheung and mmsegmentation,
    128 in PaddleSeg. 1024 costs 54 % more multiply-adds than 128."""

    head_shuffle: Literal[1, 2, 4, 8] = 1
    """The head's last convolution makes this many times finer logits per direction, by pixel
    shuffle (CoinCheung, September 2020 to July 2021: 8; elsewhere 1)."""

    booster_channels: Channels = 128
    """C_t of the booster heads, which exist in training only."""

    boosters: tuple[str, ...] = BOOSTER_STAGES
    """Stages that carry a booster head (paper, section 4.4); () trains without."""

    dropout: Annotated[Float, within(0, 0.99)] = 0.1
    """Probability of dropout before the last 1x1 of each head."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.boosters) - set(BOOSTER_STAGES))
        if unknown:
            raise ValueError(f"boosters names {unknown}, expected some of {list(BOOSTER_STAGES)}")
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
