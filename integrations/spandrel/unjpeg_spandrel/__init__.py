"""unjpeg's network as an architecture of spandrel: what loads its weights knows them by themselves.

``install()`` adds it to spandrel's registry, before ``spandrel.ModelLoader`` is used.
"""

from __future__ import annotations

from typing import Any

from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, SizeRequirements, StateDict
from spandrel.util import KeyCondition, get_seq_len

from unjpeg_spandrel.network import LAYOUT_VERSION, UnjpegNet

__all__ = ["UnjpegArch", "UnjpegNet", "install"]


class UnjpegArch(Architecture[UnjpegNet]):  # type: ignore[misc]  # spandrel is not there when types are checked
    """Weights that ``unjpeg export MODEL --blind --out FILE.safetensors`` wrote."""

    def __init__(self) -> None:
        super().__init__(
            id="Unjpeg",
            name="unjpeg",
            detect=KeyCondition.has_all("unjpeg_layout", "head.weight", "bottleneck.0.body.0.weight", "tail.weight"),
        )

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[UnjpegNet]:
        """Raises ValueError if the weights are of a later layout than this module knows."""
        version, stem, skips_after = (int(number) for number in state_dict["unjpeg_layout"])
        if version != LAYOUT_VERSION:
            raise ValueError(f"the weights have layout {version}, this module knows {LAYOUT_VERSION}; update it")
        width, scales = len(state_dict["head.weight"]), get_seq_len(state_dict, "scales")
        blocks = get_seq_len(state_dict, "bottleneck")
        model = UnjpegNet(
            width=width,
            scales=scales,
            blocks=blocks,
            stem=stem,
            skips_after=bool(skips_after),
            detail="detail.weight" in state_dict,
            fusion="fusion.weight" in state_dict,
            bounded="downs.0.bound.limit" in state_dict,
        )
        return ImageModelDescriptor(
            model,
            state_dict,
            architecture=self,
            purpose="Restoration",
            tags=[f"{width}nf", f"{scales}s", f"{blocks}nb"],
            supports_half=True,
            supports_bfloat16=False,  # its 8 bits are fewer than a pixel's, and it looks at differences of pixels
            scale=1,
            input_channels=3,
            output_channels=3,
            size_requirements=SizeRequirements(),  # the network pads itself, and not by mirroring as spandrel would
        )


def install(*, ignore_duplicates: bool = False) -> list[Any]:
    """Let spandrel know unjpeg's weights. Returns what was added.

    Args:
        ignore_duplicates: do nothing, instead of raising spandrel's error, if it knows them already.
    """
    added: list[Any] = MAIN_REGISTRY.add(
        ArchSupport.from_architecture(UnjpegArch()), ignore_duplicates=ignore_duplicates
    )
    return added
