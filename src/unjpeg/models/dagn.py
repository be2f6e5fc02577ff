"""DAGN, the dual awareness guidance network (section III-B), at any size.

::

    image ─┬─▶ insensitive encoder (frozen) ─▶ features ─┬─ mean ─────────────▶ insensitive vector ─┐
           │                                             └─ C1, C2, pyramid ──▶ fusion matrix ────┐ │
           ├─▶ sensitive encoder (frozen) ───▶ features ─── mean ─────────────▶ sensitive vector ─┼─┤
           │                                                                                      │ │ guide()
     ──────┼──────────────────────────────────────────────────────────────────────────────────────┼─┼─────────
           │                                                                                      │ │ restore()
           ├─▶ head ─▶ scale 1 ─▶ ... ─▶ scale S ─▶ + C3(F) · matrix ◀────────────────────────────┘ │
           │             │ skip            │ skip           │                          guiders ◀────┘
           │             ▼                 ▼                ▼                             │ scale, shift per stage
           │        last skip ◀─ stage ◀─ ... ◀─ residual blocks        stage = 4 sensitive + 4 insensitive blocks
           │             ▼
           └─────────▶   +  ◀─ tail
                         ▼
                     restored

``guide`` sees an image once and returns vectors and one matrix, whatever the image's size; ``restore`` is a plain
convolutional network under that guidance, so it runs on tiles. Two options are otherwise: a fusion by softmax takes the
pyramid's tokens themselves, insensitive guidance by a map is as large as the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from unjpeg.dct import BLOCK, RGB_TO_YCC, YCC_TO_RGB
from unjpeg.models.autoencoder import TOTAL_STRIDE, AutoEncoderConfig, Encoder, Heads, QualityPredictor, pool
from unjpeg.models.blocks import GuidanceBlock, Norm, ResidualBlock
from unjpeg.models.integers import BoundedConv2d, BoundedConvTranspose2d
from unjpeg.tables import STATED_FEATURES

__all__ = ["Dagn", "DagnConfig", "GuidanceTensors"]

Skips = Literal["before", "after"]
Input = Literal["rgb", "detail"]
Off = Literal["neutral", "printed"]
FusionKind = Literal["product", "softmax"]
GuidedBy = Literal["mean", "map"]

DETAIL_GAIN = (10.0, 25.0, 25.0)
"""What brings the detail of Y, Cb and Cr to about unit size."""

STATED_HIDDEN = 64

PYRAMID_SIZES = (1, 2, 4, 8)
"""Output sizes of the fusion's pooling layers: 1 + 4 + 16 + 64 = 85 tokens (section III-B4)."""


@dataclass(frozen=True, slots=True)
class DagnConfig:
    """Size and parts of a DAGN. The defaults are the published network.

    Attributes:
        width: channels of the first scale; every further scale has twice as many.
        scales: spatial scales of the base encoder.
        blocks: residual blocks per scale; each guided stage has as many of either kind.
        stem: 1, or the factor of a pixel-unshuffle in front: the network then works at a lower resolution.
        norm: of the residual and guidance blocks: "batch" as published, or "none".
        input: what the restorer looks at and changes: the image in RGB as published ("rgb"), or its detail in YCbCr
            ("detail": see ``Detail``), which learns faster: docs/research/training-log.md. The encoders always see RGB.
        skips: where the encoder's features join the decoder: "before" a stage's transposed convolution, those of the
            same resolution (published, Eq. 11), or "after" it, those of the finer scale, so that the stage's blocks
            see them, as in the networks that learned fastest: docs/research/training-log.md.
        stated: whether the restorer is also told what the file states (quantisation tables, chroma sampling), which
            the papers' networks have to see in the pixels. Not published: docs/research/training-log.md.
        bounded: whether the restorer's convolutions, all but the first and the last, are given bounded features and can
            run in 8-bit integers: see ``integers``. Not published, and without batch norm.
        encoder_width, encoder_sharpen, encoder_heads: of the two frozen encoders (see ``AutoEncoderConfig``).
        insensitive_guidance, sensitive_guidance, fusion: the three modules of Table V. A guidance that is off means
            scale 1 and shift 0.
        off: what the insensitive guidance is when it is off: "neutral", as said, or "printed", scale 0 and shift 1: the
            "(O, J)" of section IV-E, which leaves the sensitive blocks' convolutions on and these off.
        fusion_kind: how the fusion weighs the 85 tokens at each position: by the "product" of both, as published (Eq.
            10), or by its "softmax" over the tokens, with a temperature that is learned. Not published.
        insensitive_features: what the insensitive guidance is made of: the features' "mean", as published, or their
            "map": each cell of 16x16 pixels has its own scale and shift, interpolated in between. Not published.
    """

    width: int = 64
    scales: int = 4
    blocks: int = 4
    stem: int = 1
    norm: Norm = "batch"
    input: Input = "rgb"
    skips: Skips = "before"
    stated: bool = False
    bounded: bool = False
    encoder_width: int = 64
    encoder_sharpen: float = 0.0
    encoder_heads: Heads = "pooled"
    insensitive_guidance: bool = True
    sensitive_guidance: bool = True
    fusion: bool = True
    off: Off = "neutral"
    fusion_kind: FusionKind = "product"
    insensitive_features: GuidedBy = "mean"

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "stem", "encoder_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"DagnConfig.{name} must be at least 1, got {getattr(self, name)}")
        _ = self.encoder  # raises what is wrong with it
        if self.scales < 2:
            raise ValueError(f"DagnConfig.scales must be at least 2 (a U needs two ends), got {self.scales}")
        chosen = {"norm": Norm, "input": Input, "skips": Skips, "off": Off}
        chosen |= {"fusion_kind": FusionKind, "insensitive_features": GuidedBy}
        for name, kind in chosen.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"DagnConfig.{name} must be one of {get_args(kind)}, got {getattr(self, name)!r}")
        if self.bounded and self.norm != "none":
            raise ValueError('DagnConfig.bounded goes with norm "none": batch norm moves the range of the features')
        if self.fusion_kind == "softmax" and not self.fusion:
            raise ValueError('DagnConfig.fusion_kind "softmax" is of the fusion, which is off')
        if self.insensitive_features == "map" and not self.insensitive_guidance:
            raise ValueError('DagnConfig.insensitive_features "map" is of the insensitive guidance, which is off')
        if self.insensitive_features == "map" and TOTAL_STRIDE % self.coarsest_stage:
            raise ValueError(
                f'DagnConfig.insensitive_features "map" has cells of {TOTAL_STRIDE} pixels, which stages of stride '
                f"{self.coarsest_stage} do not divide"
            )
        if self.bounded and not self.has_sizeless_guidance:
            raise ValueError(
                'DagnConfig.bounded is for model files, which hold no fusion_kind "softmax" and no '
                'insensitive_features "map"'
            )

    @property
    def bottleneck_channels(self) -> int:
        """Channels of the last scale, ``C_b`` and ``D`` of the paper: 512 at the published size."""
        return int(self.width * 2 ** (self.scales - 1))

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the guided stages, ``D / 2^i``: (256, 128, 64) at the published size."""
        return tuple(self.bottleneck_channels // 2**i for i in range(1, self.scales))

    @property
    def coarsest_stage(self) -> int:
        """Pixels of the image to one position of the first guided stage, along each side."""
        return int(self.stem * 2 ** (self.scales - 2))

    @property
    def has_sizeless_guidance(self) -> bool:
        """Whether a picture's guidance is the mean of its windows': all that model files and ``restore`` on tiles know.

        Tokens lose what a softmax would tell apart when they are averaged, and a map belongs to its place.
        """
        return self.fusion_kind == "product" and self.insensitive_features == "mean"

    @property
    def total_stride(self) -> int:
        """Sides of the input of ``restore`` must be multiples of this."""
        stride = self.stem * 2 ** (self.scales - 1)
        return math.lcm(stride, BLOCK) if self.input == "detail" else int(stride)

    @property
    def encoder(self) -> AutoEncoderConfig:
        return AutoEncoderConfig(self.encoder_width, self.encoder_sharpen, self.encoder_heads)


class GuidanceTensors(NamedTuple):
    """What ``guide`` knows of an image.

    Shapes: ``insensitive`` and ``sensitive`` ``(N, 32 * encoder_width)``: globally averaged features;
    ``fusion`` ``(N, C, C)`` with C the bottleneck's channels: ``Pool(C1) · Pool(C2)^T`` of Eq. 10, over the 85 tokens'
    mean instead of their sum (the learned C3 takes up the constant); ``stated`` ``(N, STATED_FEATURES)``: what the file
    states (``unjpeg.jpeg.stated_features``), zeros where nothing is.

    With ``insensitive_features`` "map", ``insensitive`` is ``(N, 32 * encoder_width, H / 16, W / 16)``, rounded up, of
    the very image that is restored. With ``fusion_kind`` "softmax", ``fusion`` is ``(N, 2 * C, T)``: ``Pool(C1)`` and
    ``Pool(C2)`` one below the other, of as many tokens as there are.
    """

    insensitive: Tensor
    sensitive: Tensor
    fusion: Tensor
    stated: Tensor


class Guider(nn.Module):
    """Three-layer perceptron from pooled features to one (scale, shift) per guided stage (section III-B2, B3).

    Shape: ``(N, features)`` to a list of pairs ``(N, channels, 1, 1)``; of a map, ``(N, features, h, w)``, each cell's,
    ``(N, channels, h, w)``: the layers are then convolutions of 1x1.
    """

    def __init__(self, features: int, hidden: int, stage_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stage_channels = stage_channels
        self.mlp = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 2 * sum(stage_channels)),
        )
        # Start near scale 1, shift 0: an unguided residual block.
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)

    @property
    def first(self) -> nn.Linear:
        """The layer that sees the features."""
        layer = self.mlp[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        if features.dim() == 4:
            cells = features.movedim(1, -1)
            vectors = self.mlp(cells.flatten(0, 2)).unflatten(0, cells.shape[:3]).movedim(-1, 1)
        else:
            vectors = self.mlp(features)[:, :, None, None]
        pieces = torch.split(vectors, [c for c in self.stage_channels for _ in range(2)], dim=1)
        return [(1 + pieces[2 * i], pieces[2 * i + 1]) for i in range(len(self.stage_channels))]


class FusionMatrix(nn.Module):
    """The image's side of the cross-feature fusion: ``Pool(C1(F_cif)) · Pool(C2(F_cif))^T`` of Eq. 10.

    Shape: ``(N, feature_channels, h, w)`` to ``(N, channels, channels)``; for a softmax to ``(N, 2 * channels, 85)``,
    both factors by themselves.
    """

    def __init__(self, feature_channels: int, channels: int, kind: FusionKind = "product") -> None:
        super().__init__()
        self._kind = kind
        self.conv1 = nn.Conv2d(feature_channels, channels, 1)
        self.conv2 = nn.Conv2d(feature_channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        # Pooling and a 1x1 convolution commute, and pooling first is cheaper.
        tokens = torch.cat([functional.adaptive_avg_pool2d(features, k).flatten(2) for k in PYRAMID_SIZES], dim=2)
        first = self.conv1(tokens[..., None]).squeeze(-1)
        second = self.conv2(tokens[..., None]).squeeze(-1)
        if self._kind == "softmax":
            return torch.cat([first, second], dim=1)
        matrix: Tensor = first @ second.transpose(1, 2) / tokens.shape[2]
        return matrix


class GuidedStage(nn.Module):
    """Add the skip, double the resolution (or the other way round), then sensitive and insensitive guidance blocks.

    Eq. 11. The blocks of one kind share their scale and shift.

    Shape: ``(N, 2 * channels, H, W)`` to ``(N, channels, 2 * H, 2 * W)``; a skip as the former if it joins before the
    upsampling, else as the latter.
    """

    def __init__(self, channels: int, config: DagnConfig) -> None:
        super().__init__()
        self._skip_first = config.skips == "before"
        if config.bounded:
            self.up: nn.Module = BoundedConvTranspose2d(2 * channels, channels, 2)
        else:
            self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.sensitive, self.insensitive = (
            nn.ModuleList(GuidanceBlock(channels, config.norm, bounded=config.bounded) for _ in range(config.blocks))
            for _ in range(2)
        )

    def forward(
        self, features: Tensor, skip: Tensor, sensitive: tuple[Tensor, Tensor], insensitive: tuple[Tensor, Tensor]
    ) -> Tensor:
        x: Tensor = self.up(features + skip) if self._skip_first else self.up(features) + skip
        for block in self.sensitive:
            x = block(x, *sensitive)
        for block in self.insensitive:
            x = block(x, *insensitive)
        return x


class Detail(nn.Module):
    """An image's YCbCr planes without what bilinear interpolation of its 8x8 blocks' means already shows, amplified.

    Quantisation hardly touches those means (each is one DCT coefficient), so what is to be restored is in the rest; and
    next to the means the rest is so small that a network's activations hang on the local brightness instead.

    Shape: ``(N, 3, H, W)``, range 0..1, sides multiples of 8, to the same.
    """

    to_ycbcr: Tensor
    to_rgb: Tensor
    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, matrix in (("to_ycbcr", RGB_TO_YCC), ("to_rgb", YCC_TO_RGB)):
            self.register_buffer(name, torch.from_numpy(matrix)[:, :, None, None], persistent=False)
        self.register_buffer("gain", torch.tensor(DETAIL_GAIN)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        planes = functional.conv2d(image, self.to_ycbcr)
        means = functional.avg_pool2d(planes, BLOCK)
        smooth = functional.interpolate(means, scale_factor=float(BLOCK), mode="bilinear", align_corners=False)
        return (planes - smooth) * self.gain

    def rgb(self, change: Tensor) -> Tensor:
        """A change of the YCbCr planes as a change of RGB. Shape: ``(N, 3, H, W)`` to the same."""
        return functional.conv2d(change, self.to_rgb)


class Dagn(nn.Module):
    """The whole network. ``forward(image) == restore(image, guide(image))``, unless other guidance is given.

    Shape: ``(N, 3, H, W)``, range 0..1, sides multiples of ``config.total_stride``, to the same.
    """

    def __init__(self, config: DagnConfig) -> None:
        super().__init__()
        self.config = config
        encoder, channels, stages = config.encoder, config.bottleneck_channels, config.stage_channels

        self.insensitive_encoder = Encoder(encoder)
        self.sensitive_encoder = Encoder(encoder)
        self.quality_predictor = QualityPredictor(encoder)
        for part in self.frozen_parts():
            part.requires_grad_(False)

        self.insensitive_guider = Guider(encoder.feature_channels, channels, stages)
        self.sensitive_guider = Guider(encoder.feature_channels, channels, stages)
        self.fusion_matrix = FusionMatrix(encoder.feature_channels, channels, config.fusion_kind)
        self.fusion_conv3 = nn.Conv2d(channels, channels, 1)
        # Start near "no fusion": without the softmax of an attention the product has no natural scale. With it, what is
        # small is the values; were it the queries, all tokens would weigh the same.
        by_softmax = config.fusion_kind == "softmax"
        small = self.fusion_matrix.conv2 if by_softmax else self.fusion_conv3
        nn.init.normal_(small.weight, std=1e-3)
        nn.init.zeros_(small.bias)  # type: ignore[arg-type]
        self.fusion_log_temperature = nn.Parameter(torch.zeros(())) if by_softmax else None

        image_channels = 3 * config.stem**2
        widths = [config.width * 2**i for i in range(config.scales)]
        self.detail = Detail() if config.input == "detail" else None
        self.head = nn.Conv2d(image_channels, config.width, 3, padding=1)
        self.stated = _stated_layers(config.width) if config.stated else None
        down = BoundedConv2d if config.bounded else nn.Conv2d
        self.encoder_scales = nn.ModuleList(_residual_blocks(width, config) for width in widths)
        self.downs = nn.ModuleList(down(width, 2 * width, 2, stride=2) for width in widths[:-1])
        self.bottleneck = _residual_blocks(channels, config)
        self.stages = nn.ModuleList(GuidedStage(width, config) for width in stages)
        self.tail = nn.Conv2d(config.width, image_channels, 3, padding=1)
        # Start at the decoded JPEG: the residual is small, and the first steps should not be spent on unlearning it.
        nn.init.normal_(self.tail.weight, std=1e-3)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

        # What is off does not learn: data-parallel training waits for the gradient of everything that does.
        for used, part in (
            (config.insensitive_guidance, self.insensitive_guider),
            (config.sensitive_guidance, self.sensitive_guider),
            (config.fusion, self.fusion_matrix),
            (config.fusion, self.fusion_conv3),
        ):
            part.requires_grad_(used)
        if self.insensitive_blocks_off(config):
            for stage in self.stages:
                stage.insensitive.requires_grad_(False)
        self.train()  # modules are born in training mode, the encoders too

    @staticmethod
    def insensitive_blocks_off(config: DagnConfig) -> bool:
        """Whether a scale of zero leaves nothing of the insensitive blocks' convolutions."""
        return config.off == "printed" and not config.insensitive_guidance

    def frozen_parts(self) -> tuple[nn.Module, ...]:
        """What stage 1 has trained and stage 2 leaves as it is."""
        return self.insensitive_encoder, self.sensitive_encoder, self.quality_predictor

    def frozen_names(self) -> list[str]:
        """Of their weights and statistics in the state dict."""
        parts = ("insensitive_encoder.", "sensitive_encoder.", "quality_predictor.")
        return [name for name in self.state_dict() if name.startswith(parts)]

    def train(self, mode: bool = True) -> Dagn:
        """Training mode for all but the encoders: their batch-norm statistics stay as stage 1 left them."""
        super().train(mode)
        for part in self.frozen_parts():
            part.eval()
        return self

    def guide(self, image: Tensor, stated: Tensor | None = None) -> GuidanceTensors:
        """Features of an image. Shape: ``(N, 3, H, W)``, range 0..1, any size; see ``GuidanceTensors``."""
        return self.guide_and_read(image, stated)[0]

    def guide_and_read(self, image: Tensor, stated: Tensor | None = None) -> tuple[GuidanceTensors, Tensor]:
        """The same, and the probabilities of the 100 quality factors, ``(N, 100)``, read from the pixels."""
        insensitive, sensitive = self._features(image)
        if stated is None:
            stated = image.new_zeros(len(image), STATED_FEATURES)
        seen = insensitive if self.config.insensitive_features == "map" else pool(insensitive)
        guidance = GuidanceTensors(seen, pool(sensitive), self.fusion_matrix(insensitive), stated)
        return guidance, functional.softmax(self.quality_predictor(sensitive), dim=1)

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.insensitive_encoder(image), self.sensitive_encoder(image)

    def restore(self, image: Tensor, guidance: GuidanceTensors) -> Tensor:
        """Restored image. Shape: ``(N, 3, H, W)``, range 0..1, sides multiples of ``total_stride``; not clipped.

        Raises ValueError if the guidance is a map that is not as large as the image.
        """
        return self.deep(self.shallow(image, guidance.stated), image, guidance)

    def shallow(self, image: Tensor, stated: Tensor) -> Tensor:
        """The first convolution and the first residual block: ``(N, 3, H, W)`` to ``(N, width, H/stem, W/stem)``."""
        stem = self.config.stem
        seen = self.detail(image) if self.detail else image
        x = self.head(functional.pixel_unshuffle(seen, stem) if stem > 1 else seen)
        if self.stated is not None:
            x = x + self.stated(stated)[:, :, None, None]
        first: Tensor = next(iter(self.encoder_scales[0]))(x)  # type: ignore[call-overload]
        return first

    def deep(self, shallow: Tensor, image: Tensor, guidance: GuidanceTensors) -> Tensor:
        """The rest of ``restore``, from what ``shallow`` made of the image."""
        config = self.config
        one, zero = image.new_ones(()), image.new_zeros(())
        unguided = [(one, zero)] * len(self.stages)
        sensitive = self.sensitive_guider(guidance.sensitive) if config.sensitive_guidance else unguided
        insensitive = self.insensitive_guider(guidance.insensitive) if config.insensitive_guidance else unguided
        if self.insensitive_blocks_off(config):
            insensitive = [(zero, one)] * len(self.stages)
        if config.insensitive_features == "map":
            insensitive = self._spread_maps(insensitive, image)

        x = shallow
        skips = []
        for scale, blocks in enumerate(self.encoder_scales):
            if scale:
                x = blocks(self.downs[scale - 1](x))
            else:
                for block in list(blocks)[1:]:  # type: ignore[call-overload]
                    x = block(x)
            skips.append(x)
        if config.fusion:
            x = x + self._fused(x, guidance.fusion)
        x = self.bottleneck(x)
        if config.skips == "after":
            skips.pop()  # the bottleneck has just come from it
        for i, stage in enumerate(self.stages):
            x = stage(x, skips.pop(), sensitive[i], insensitive[i])
        residual = self.tail(x + skips.pop() if skips else x)
        if config.stem > 1:
            residual = functional.pixel_shuffle(residual, config.stem)
        return image + (self.detail.rgb(residual) if self.detail else residual)

    def _spread_maps(self, maps: list[tuple[Tensor, Tensor]], image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each stage's scale and shift at the stage's own resolution."""
        height, width = image.shape[2:]
        cells = tuple(maps[0][0].shape[2:])
        if cells != (-(-height // TOTAL_STRIDE), -(-width // TOTAL_STRIDE)):
            raise ValueError(f"a map of {cells} cells is no guidance for an image of {height}x{width} pixels")
        strides = [self.config.coarsest_stage // 2**i for i in range(len(self.stages))]
        return [
            (_spread(scale, stride, image), _spread(shift, stride, image))
            for stride, (scale, shift) in zip(strides, maps, strict=True)
        ]

    def _fused(self, features: Tensor, matrix: Tensor) -> Tensor:
        """``C3(F_bf) · matrix`` of Eq. 10, features as rows: a 1x1 convolution with the image's own weights.

        By softmax, the tokens' mean as each position weighs them: attention, with C3 for queries, C1 for keys and C2
        for values.
        """
        n, channels, height, width = features.shape
        rows = self.fusion_conv3(features).flatten(2)
        fused: Tensor
        if self.fusion_log_temperature is None:
            fused = matrix.transpose(1, 2) @ rows
        else:
            keys, values = matrix.chunk(2, dim=1)
            logits = keys.transpose(1, 2) @ rows / (math.sqrt(channels) * self.fusion_log_temperature.exp())
            fused = values @ functional.softmax(logits, dim=1)
        return fused.reshape(n, channels, height, width)

    def forward(self, image: Tensor, guidance: GuidanceTensors | None = None, stated: Tensor | None = None) -> Tensor:
        """``restore`` under the given guidance, or under the image's own and what is stated of it."""
        return self.restore(image, self.guide(image, stated) if guidance is None else guidance)


def _spread(cells: Tensor, stride: int, image: Tensor) -> Tensor:
    """What is known of cells of 16x16 pixels, for every ``stride`` pixels of the image, linear in between.

    The encoder's convolutions are centred on a cell's first pixel, not on its middle.

    Shape: ``(N, C, H / 16, W / 16)``, rounded up, to ``(N, C, H / stride, W / stride)``.
    """
    factor = TOTAL_STRIDE // stride
    rows, columns = ((n - 1) * factor + 1 for n in cells.shape[2:])
    between = functional.interpolate(cells, (rows, columns), mode="bilinear", align_corners=True)
    height, width = (n // stride for n in image.shape[2:])
    return functional.pad(between, (0, width - columns, 0, height - rows), mode="replicate")


def _stated_layers(channels: int) -> nn.Sequential:
    """From what a file states to a shift of the first features, which begins at zero."""
    last = nn.Linear(STATED_HIDDEN, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(STATED_FEATURES, STATED_HIDDEN), nn.ReLU(inplace=True), last)


def _residual_blocks(channels: int, config: DagnConfig) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, config.norm, bounded=config.bounded) for _ in range(config.blocks)))
