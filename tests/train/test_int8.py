"""The 8-bit graph: what is rounded, what it costs, and that it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra: train")

from conftest import synthetic_photo
from jpegs import encoded
from unjpeg import runtimes
from unjpeg.errors import ModelError, TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.network import Model
from unjpeg.restorer import Restorer
from unjpeg.runtimes import BF16_FEATURES, ChosenPrecision, Precision, processor_features
from unjpeg.tiling import Tiling
from unjpeg.train import int8
from unjpeg.train.int8 import main, round_file

needs_bf16 = pytest.mark.skipif(
    not processor_features() & BF16_FEATURES, reason="this processor does not multiply bf16"
)


@pytest.fixture(scope="module")
def crops() -> list[NDArray[np.uint8]]:
    return [synthetic_photo(64, 64, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def rounded(rounded_model: Path) -> ModelFile:
    return ModelFile.read(rounded_model)


def integer_weights(file: ModelFile) -> int:
    assert file.restore_int8 is not None
    stored = onnx.load_from_string(file.restore_int8).graph.initializer
    return sum(initialiser.data_type == onnx.TensorProto.INT8 for initialiser in stored)


def change(file: ModelFile) -> float:
    """Of the network's output on a picture that nothing was fitted to, in levels of 255."""
    image = synthetic_photo(96, 64, seed=9).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    full, int8 = (Model(file, runtime="openvino", threads=1, precision=p) for p in ("full", "int8"))
    window = np.random.default_rng(0).random((1, 3, full.guide_window, full.guide_window), np.float32)
    guidance = full.guide(window)
    difference = full.restore(image, guidance) - int8.restore(image, guidance)
    return float(255 * np.sqrt(np.square(difference).mean()))


def test_convolutions_are_rounded(rounded: ModelFile) -> None:
    facts = rounded.description.int8
    assert facts is not None
    assert facts["in_full_precision"] == []
    assert integer_weights(rounded) == facts["convolutions"] > 5
    assert 0 < facts["photographs_db"] <= facts["worst_db"] < 1


def test_the_runtime_agrees(rounded: ModelFile) -> None:
    assert 0 < change(rounded) < 1


@pytest.mark.parametrize(("budget", "other"), [("photographs_db", "worst_db"), ("worst_db", "photographs_db")])
def test_a_small_budget_leaves_some_in_floating_point(
    rounded: ModelFile, tiny_model: Path, crops: list[NDArray[np.uint8]], budget: str, other: str
) -> None:
    most = rounded.description.int8
    assert most is not None
    fewer = round_file(ModelFile.read(tiny_model), crops, **{budget: most[budget] / 4, other: 1})
    facts = fewer.description.int8
    assert facts is not None
    assert 0 < facts["convolutions"] < most["convolutions"]
    assert facts["convolutions"] + len(facts["in_full_precision"]) == most["convolutions"]
    assert facts[budget] <= most[budget] / 4
    assert change(fewer) < change(rounded)


def test_what_cannot_be_rounded_says_so(
    tiny_model: Path, crops: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ModelFile.read(tiny_model)
    with pytest.raises(TrainingError, match="for as little as that"):
        round_file(file, crops[:1], worst_db=0)
    with pytest.raises(TrainingError, match="no pictures"):
        round_file(file, [])
    monkeypatch.setattr(int8, "_is_inner", lambda weight: False)
    with pytest.raises(TrainingError, match="none of the convolutions"):
        round_file(file, crops[:1])


def test_both_sets_of_weights_are_rounded(
    rounded: ModelFile, tiny_model: Path, crops: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    file = ModelFile.read(tiny_model)
    round_file(file.with_strong(file, 20), crops, photographs_db=1, worst_db=1).write(tmp_path / "both.unjpeg")
    both = ModelFile.read(tmp_path / "both.unjpeg")
    assert both.strong is not None
    assert both.restore_int8 == both.strong.restore_int8 == rounded.restore_int8
    assert both.description.strong_up_to == 20


def test_it_is_stored_and_checked(rounded: ModelFile, tiny_model: Path, tmp_path: Path) -> None:
    rounded.write(tmp_path / "rounded.unjpeg")
    again = ModelFile.read(tmp_path / "rounded.unjpeg")
    assert again.restore_int8 == rounded.restore_int8
    assert again.hash == rounded.hash != ModelFile.read(tiny_model).hash
    damaged = tmp_path / "damaged.unjpeg"
    ModelFile(again.description, again.guide, again.restore, again.quality_features, None, again.restore).write(damaged)
    with pytest.raises(ModelError, match="'restore_int8' does not match its hash"):
        ModelFile.read(damaged)


@pytest.mark.parametrize(
    ("features", "chosen", "without_int8"),
    [
        (set(), "full", "full"),
        ({"avx2", "avx512f"}, "full", "full"),
        ({"avx2", "avx_vnni"}, "int8", "full"),
        ({"avx512_vnni"}, "int8", "full"),
        ({"avx512_vnni", "avx512_bf16"}, "int8", "full"),
        ({"avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}, "bf16", "bf16"),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else None,
)
def test_the_fixed_default(
    rounded: ModelFile,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: set[str],
    chosen: str,
    without_int8: str,
) -> None:
    monkeypatch.setattr(runtimes, "processor_features", lambda: frozenset(features))
    assert Model(rounded).precision == chosen
    assert Model(rounded, runtime="onnxruntime").precision == "full"
    assert Model(rounded, precision="full").precision == "full"
    assert Model(rounded, precision="int8").precision == "int8"
    assert Model(ModelFile.read(tiny_model)).precision == without_int8
    report = Restorer(rounded).restore(encoded(synthetic_photo(40, 40, seed=1))).report
    assert report.precision == chosen


def test_what_cannot_run_says_so(rounded: ModelFile, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="onnxruntime runs at full precision"):
        Model(rounded, runtime="onnxruntime", precision="int8")
    with pytest.raises(ModelError, match="has no int8 graph"):
        Model(ModelFile.read(tiny_model), precision="int8")
    with pytest.raises(ModelError, match="bf16 is for the openvino runtime"):
        Model(rounded, runtime="onnxruntime", precision="bf16")
    with pytest.raises(ModelError, match="precision must be one of"):
        Model(rounded, precision="int4")  # type: ignore[arg-type]


def test_bf16_needs_a_processor_that_multiplies_it(rounded: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "processor_features", lambda: frozenset({"avx512_vnni"}))
    with pytest.raises(ModelError, match="does not multiply bf16"):
        Model(rounded, precision="bf16")


@needs_bf16
def test_bf16_rounds_and_full_does_not(rounded: ModelFile) -> None:
    torch_like = Model(rounded, runtime="onnxruntime")
    image = synthetic_photo(64, 64, seed=3).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    guidance = torch_like.guide(image[..., : torch_like.guide_window, : torch_like.guide_window])
    reference = torch_like.restore(image, guidance)
    errors = {
        precision: np.abs(Model(rounded, precision=precision).restore(image, guidance) - reference).max()
        for precision in get_args(ChosenPrecision)[:2]
    }
    assert 10 * errors["full"] < errors["bf16"] < 0.01


def test_a_restorer_says_so_at_once(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="has no int8 graph"):
        Restorer(tiny_model, precision="int8")


@pytest.mark.parametrize(
    ("precision", "halo"), [("full", 96), pytest.param("bf16", 160, marks=needs_bf16), ("int8", 192)]
)
def test_tiles_of_integers_have_a_wider_halo(rounded: ModelFile, precision: Precision, halo: int) -> None:
    restorer = Restorer(rounded, precision=precision)
    assert restorer.model.precision == precision
    assert restorer.network.tiling == Tiling.suited_to(rounded.description, restorer.model.precision)
    published = replace(rounded.description, network={})
    assert Tiling.suited_to(published, restorer.model.precision).halo == halo


def test_decoding_alone_has_no_precision(rounded: ModelFile) -> None:
    assert Restorer(rounded).restore(encoded(synthetic_photo(16, 16, seed=1)), strength=0).report.precision is None


def test_the_command(tiny_model: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tiny_model, [str(image_folder)], tmp_path / "out.unjpeg")
    assert str(tmp_path / "out.unjpeg") in capsys.readouterr().err
    assert ModelFile.read(tmp_path / "out.unjpeg").restore_int8 is not None
