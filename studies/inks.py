"""What it gains to restore a CMYK JPEG, by how its inks are coded.

``python -m studies.inks ORIGINALS`` turns each original into inks with a profile, as printers do, and compresses them
as CMYK, and as YCCK with chroma at full and at half resolution. Each file is restored as ``unjpeg`` does. For YCCK also
with luma and each chroma plane restored as a grey picture, which shows why they are restored together.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyvips
import typer
from numpy.typing import NDArray
from PIL import Image, ImageCms

from unjpeg.console import run_safely
from unjpeg.dct import downsample, rgb_from_ycc, upsample, ycc_from_rgb
from unjpeg.evaluate.metrics import psnr_db
from unjpeg.evaluate.pairs import Pixels8, load_images
from unjpeg.jpeg import JpegImage
from unjpeg.restorer import Restorer

__all__ = ["encode_cmyk", "encode_ycck", "main", "separate"]

SAMPLINGS = ("4:4:4", "4:2:0")

_ADOBE_YCCK = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02"


def separate(original: Pixels8) -> Pixels8:
    """RGB, ``(H, W, 3)``, as the inks that libvips' CMYK profile prints it with, ``(H, W, 4)``; 0 is no ink."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(bytes(pyvips.Operation.call("profile_load", "cmyk"))))
    image = Image.fromarray(original)
    inks = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), profile, outputMode="CMYK")
    assert inks is not None  # only in place there is none
    return np.asarray(inks)


def encode_cmyk(inks: Pixels8, quality: int, profile: bytes | None = None) -> bytes:
    """A JPEG of four planes alike, ``(H, W, 4)``."""
    return _save(Image.fromarray(inks, mode="CMYK"), quality=quality, icc_profile=profile)


def encode_ycck(inks: Pixels8, quality: int, sampling: str = "4:2:0") -> bytes:
    """A JPEG whose first three planes are luma and chroma of the inks, ``(H, W, 4)``: a colour JPEG and a grey one."""
    colour = _save(Image.fromarray(np.ascontiguousarray(inks[..., :3])), quality=quality, subsampling=sampling)
    black = _save(Image.fromarray(255 - inks[..., 3]), quality=quality)
    parts = [_ADOBE_YCCK]
    scans: list[bytes] = []
    for number, data in enumerate((colour, black)):
        tables: list[bytes] = []
        position = 2
        while data[position + 1] != 0xDA:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
            part = data[position:end]
            if part[1] == 0xDB and number == 0:  # black has luma's, and so the same
                parts.append(part)
            elif part[1] == 0xC4:
                tables.append(part)
            elif part[1] == 0xC0 and number == 0:
                last = bytes((4, part[11], part[12]))  # as fine as luma
                frame = part[4:9] + b"\4" + part[10:] + last
                parts.append(struct.pack(">BBH", 0xFF, 0xC0, len(frame) + 2) + frame)
            position = end
        scan = bytearray(data[position:-2])
        if number:
            scan[5] = 4  # the component's number
        scans += [*tables, bytes(scan)]
    return b"".join((b"\xff\xd8", *parts, *scans, b"\xff\xd9"))


def _save(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def main(
    originals: Annotated[Path, typer.Argument(help="Folder of colour pictures that were never compressed.")],
    model: Annotated[list[str], typer.Option(help="Models.")] = ["fast", "default"],  # noqa: B006
    quality: Annotated[list[int], typer.Option(help="Of the files.")] = [20, 50, 80],  # noqa: B006
    every: Annotated[int, typer.Option(min=1, help="Take every so many-th picture.")] = 1,
    side: Annotated[int, typer.Option(min=64, help="Of the square that is cut out of each, from 64, 64.")] = 256,
) -> None:
    """Measure, and print each mean gain over the decode in dB of PSNR: of each ink, and of all four."""
    pictures = [
        separate(np.ascontiguousarray(np.asarray(Image.fromarray(pixels).convert("RGB"))[64:, 64:][:side, :side]))
        for _, pixels in list(load_images(originals))[::every]
    ]
    cases: dict[str, Callable[[Pixels8, int], bytes]] = {
        "CMYK": encode_cmyk,
        **{f"YCCK {sampling}": partial(encode_ycck, sampling=sampling) for sampling in SAMPLINGS},
    }
    for name in model:
        restorer = Restorer(name)
        for level in quality:
            for case, encode in cases.items():
                gains, apart = [], []
                for inks in pictures:
                    data = encode(inks, level)
                    decoded = JpegImage.decode(data).pixels
                    restored = restorer.restore(data).pixels.astype(np.uint8, copy=False)
                    gains.append([_gain(restored[..., i], decoded[..., i], inks[..., i]) for i in range(4)])
                    gains[-1].append(_gain(restored, decoded, inks))
                    if case != "CMYK":
                        by_plane = _restore_by_plane(restorer, inks, level, decoded, case.removeprefix("YCCK "))
                        apart.append(_gain(by_plane, decoded[..., :3], inks[..., :3]))
                        gains[-1].append(_gain(restored[..., :3], decoded[..., :3], inks[..., :3]))
                inked = np.mean(gains, axis=0)
                line = " ".join(f"{ink} {gain:+.2f}" for ink, gain in zip("CMYK", inked, strict=False))
                line = f"{name:8s} {case:10s} quality {level}: {line}, all {inked[4]:+.2f}"
                if apart:
                    line += f"; C, M and Y together {inked[5]:+.2f}, plane by plane {np.mean(apart):+.2f}"
                print(line, flush=True)


def _gain(restored: Pixels8, decoded: Pixels8, truth: Pixels8) -> float:
    return min(psnr_db(restored, truth), 60.0) - min(psnr_db(decoded, truth), 60.0)


def _restore_by_plane(
    restorer: Restorer, inks: Pixels8, quality: int, decoded: Pixels8, sampling: str
) -> NDArray[np.uint8]:
    """C, M and Y with luma and each chroma plane restored as grey pictures: what it changes is added to the decode."""
    scale = 2 if sampling == "4:2:0" else 1
    chroma_table = Image.open(io.BytesIO(encode_ycck(inks, quality))).quantization[1]  # type: ignore[attr-defined]
    planes = ycc_from_rgb(inks[..., :3].astype(np.float32))
    ycc = ycc_from_rgb(decoded[..., :3].astype(np.float32))
    for number in range(3):
        plane = planes[..., number] if number == 0 else downsample(planes[..., number], scale, scale) + 128
        image = Image.fromarray(np.rint(plane).clip(0, 255).astype(np.uint8))
        data = _save(image, quality=quality) if number == 0 else _save(image, qtables=[chroma_table])
        change = restorer.restore(data, consistency="strict").pixels.astype(np.float32)
        change -= JpegImage.decode(data).pixels
        ycc[..., number] += change if number == 0 else upsample(change, scale, scale)
    return np.rint(rgb_from_ycc(ycc)).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    run_safely(lambda: typer.run(main))
