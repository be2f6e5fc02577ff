"""Published networks, converted: their files are made here."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import correlate2d

pytest.importorskip("h5py")
pytest.importorskip("skimage")
pytest.importorskip("torch")

import h5py

from studies.documents.tables import make_tables
from studies.peers import convert, convert_dncnn, luma, read_convolutions, summary
from unjpeg.errors import MeasurementError, SettingError
from unjpeg.evaluate.methods import find_method
from unjpeg.evaluate.pairs import encode_jpeg

Floats = NDArray[np.float32]


def save_matlab(path: Path, stack: list[tuple[Floats, Floats]], last: str = "conv") -> Path:
    """A stack as MATLAB 7.3 stores MatConvNet's ``net``: (out, in, row, column) backwards, without a last axis of 1."""
    with h5py.File(path, "w") as file:
        references: list[Any] = []
        for number, (weights, biases) in enumerate(stack):
            if number:
                references.append(file.create_group(f"#refs#/r{number}").ref)
                file[f"#refs#/r{number}/type"] = np.array([[ord(c)] for c in "relu"], np.uint16)
            kind = last if number == len(stack) - 1 else "conv"
            layer = file.create_group(f"#refs#/c{number}")
            layer["type"] = np.array([[ord(c)] for c in kind], np.uint16)
            stored = weights.transpose(0, 1, 3, 2)
            file[f"#refs#/w{number}"] = stored[0] if len(stored) == 1 else stored
            file[f"#refs#/b{number}"] = biases[None]
            pair = [file[f"#refs#/{kind}{number}"].ref for kind in "wb"]
            layer.create_dataset("weights", data=np.array([[one] for one in pair], h5py.ref_dtype))
            references.append(layer.ref)
        net = file.create_group("net")
        net.create_dataset("layers", data=np.array([[one] for one in references], h5py.ref_dtype))
    return path


def make_stack(*widths: int) -> list[tuple[Floats, Floats]]:
    rng = np.random.default_rng(0)
    return [
        (rng.normal(0, 0.3, (after, before, 3, 3)).astype(np.float32), rng.normal(0, 0.1, after).astype(np.float32))
        for before, after in pairwise(widths)
    ]


def run_plainly(stack: list[tuple[Floats, Floats]], image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The picture minus what the stack makes of it, by its definition."""
    x = image[None]
    for number, (weights, biases) in enumerate(stack):
        x = np.stack(
            [
                sum(correlate2d(plane, kernel, "same") for plane, kernel in zip(x, kernels, strict=True)) + bias
                for kernels, bias in zip(weights.astype(float), biases.astype(float), strict=True)
            ]
        )
        x = np.maximum(x, 0) if number < len(stack) - 1 else x
    predicted: NDArray[np.float64] = x[0]
    return image - predicted


def test_a_converted_dncnn_computes_what_it_did(tmp_path: Path) -> None:
    stack = make_stack(1, 4, 4, 4, 1)
    source, target = save_matlab(tmp_path / "DnCNN.mat", stack), tmp_path / "new" / "peer.safetensors"
    convert("dncnn3", source, target)
    method = find_method(str(target))
    assert method.name == "peer"
    picture = np.random.default_rng(1).integers(0, 256, (24, 20), np.uint8)
    file = encode_jpeg(picture, 30)
    decoded = find_method("jpeg").restore(file)
    expected = np.rint(255 * run_plainly(stack, decoded / 255.0).clip(0, 1))
    assert np.abs(expected - decoded).mean() > 10  # it does something
    assert np.abs(method.restore(file).astype(int) - expected).max() <= 1
    complexity = method.count_complexity()
    assert complexity is not None
    assert complexity.parameters_m > 0


def test_what_is_no_dncnn_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "missing.mat"
    with pytest.raises(SettingError, match="no such file"):
        read_convolutions(missing)
    with pytest.raises(SettingError, match="no network 'dncnn4'; there are: dncnn3"):
        convert("dncnn4", missing, tmp_path / "out")
    missing.write_bytes(b"no matrices")
    with pytest.raises(MeasurementError, match="holds no network as MatConvNet saves one"):
        read_convolutions(missing)
    with pytest.raises(MeasurementError, match="by turns are wanted, these are conv, relu, loss"):
        read_convolutions(save_matlab(tmp_path / "loss.mat", make_stack(1, 4, 1), last="loss"))
    with pytest.raises(MeasurementError, match="holds no DnCNN"):
        convert_dncnn(save_matlab(tmp_path / "other.mat", make_stack(1, 4, 6, 1)))


def test_luma_is_matlab_s(tmp_path: Path) -> None:
    """White is 235, black 16, and green the brightest of the colours."""
    (tmp_path / "colour").mkdir()
    pixels = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour" / "a.bmp")
    luma(tmp_path / "colour", tmp_path / "luma")
    with Image.open(tmp_path / "luma" / "a.png") as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[235, 16, 81, 145, 41]]


def test_what_a_table_shows_is_kept(tmp_path: Path) -> None:
    def mean(value: float) -> dict[str, float]:
        return {"mean": value, "low": value - 1, "high": value + 1}

    methods = {
        name: {"psnr_db": mean(value), "ssim": mean(0.5), "psnr_b_db": mean(value - 2), "bytes": mean(9)}
        for name, value in (("jpeg", 27.0), ("peer", 28.5))
    }
    difference = {"psnr_db": {**mean(1.5), "lower": 2, "pictures": 5}}
    figures = {"pictures": 5, "methods": methods, "differences": {"peer - jpeg": difference}}
    record = {"summary": {"set": {"jpeg-10": figures}}, "commit": "0", "rows": [{"image": "a"}], "methods": {"peer": 1}}
    (tmp_path / "results.json").write_text(json.dumps(record))
    (tmp_path / "more.json").write_text(json.dumps(record | {"summary": {"more": {"jpeg-10": figures}}}))
    (tmp_path / "other.json").write_text(json.dumps(record | {"methods": {"peer": 2}}))
    shutil.copytree(Path(__file__).parents[2] / "results", tmp_path / "results")
    both = [tmp_path / "results.json", tmp_path / "more.json"]
    with pytest.raises(SettingError, match="of other methods"):
        summary([*both, tmp_path / "other.json"], tmp_path / "results" / "peers.json")
    summary(both, tmp_path / "results" / "peers.json")
    assert make_tables(tmp_path / "results")["peers"].splitlines()[2:4] == [
        "| set | jpeg-10 | jpeg | 27.00 / 0.500 / 25.00 |  |",
        "| set | jpeg-10 | peer | 28.50 / 0.500 / 26.50 | +1.50 (+0.50 .. +2.50) |",
    ]
    assert "rows" not in json.loads((tmp_path / "results" / "peers.json").read_text())
