"""Weights of their own for strong compression: which pictures they restore, and how a model file holds them."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jpegs import encoded, saved
from unjpeg.errors import ModelError
from unjpeg.modelfile import ModelFile
from unjpeg.picture import read_picture
from unjpeg.projection import Calibration
from unjpeg.restorer import Restorer
from unjpeg.train.strong import main as put_together

onnx = pytest.importorskip("onnx", reason="needs the extra: export")

UP_TO = 20
SHARES = np.random.default_rng(0).random((2, 2, 2, 2, 8, 8)).astype(np.float16).astype(np.float32)


def with_louder_tail(file: ModelFile) -> ModelFile:
    """Other weights of the same network, which change pixels by levels, with a calibration of their own."""
    model = onnx.load_from_string(file.restore)
    for value in model.graph.initializer:
        if value.name == "network.tail.weight":
            louder = onnx.numpy_helper.to_array(value) * np.float16(-30)
            value.CopyFrom(onnx.numpy_helper.from_array(louder, value.name))
    graph = model.SerializeToString()
    hashes = {**file.description.sha256, "restore": hashlib.sha256(graph).hexdigest()}
    other = replace(file, restore=graph, description=replace(file.description, sha256=hashes))
    return other.calibrated(Calibration((10, 90), SHARES))


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> ModelFile:
    return ModelFile.read(tiny_model).calibrated(Calibration((20, 80), SHARES[::-1]))


@pytest.fixture(scope="module")
def strong(base: ModelFile) -> ModelFile:
    return with_louder_tail(base)


@pytest.fixture(scope="module")
def joined(base: ModelFile, strong: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("joined") / "tiny.unjpeg"
    base.with_strong(strong, UP_TO).write(path)
    return path


@pytest.fixture(scope="module")
def restorers(base: ModelFile, strong: ModelFile, joined: Path) -> dict[str, Restorer]:
    files: dict[str, ModelFile | Path] = {"base": base, "strong": strong, "joined": joined}
    return {name: Restorer(file, precision="full") for name, file in files.items()}


def test_a_file_holds_both(base: ModelFile, strong: ModelFile, joined: Path) -> None:
    both = ModelFile.read(joined)
    assert both.description.strong_up_to == UP_TO
    assert both.strong is not None
    assert (both.strong.guide, both.strong.restore) == (base.guide, strong.restore)
    assert both.strong.calibration is not None
    np.testing.assert_allclose(both.strong.calibration.shares_L22288, SHARES, atol=1e-3)
    assert (both.guide, both.restore) == (base.guide, base.restore)
    assert both.calibration is not None
    np.testing.assert_array_equal(both.calibration.shares_L22288, SHARES[::-1])
    assert both.hash not in (base.hash, strong.hash)
    assert both.hash != base.with_strong(strong, UP_TO + 1).hash
    with zipfile.ZipFile(joined) as archive:
        assert {name for name in archive.namelist() if name.startswith("strong/")} == {
            "strong/model.json",
            "strong/restore.onnx",
            "strong/calibration.npy",
        }


@pytest.mark.parametrize("quality", [1, 5, UP_TO, UP_TO + 1, 60, 100])
def test_the_quality_of_the_file_chooses(restorers: dict[str, Restorer], photo: np.ndarray, quality: int) -> None:
    data = encoded(photo, quality=quality)
    results = {name: restorer.restore(data).pixels for name, restorer in restorers.items()}
    chosen, other = ("strong", "base") if quality <= UP_TO else ("base", "strong")
    np.testing.assert_array_equal(results["joined"], results[chosen])
    if quality < 95:
        assert (results["joined"] != results[other]).any()


@pytest.mark.parametrize(("asked", "chosen"), [(UP_TO, "strong"), (UP_TO + 1, "base")])
def test_a_quality_that_is_asked_for_chooses(
    restorers: dict[str, Restorer], photo: np.ndarray, asked: int, chosen: str
) -> None:
    for data in (encoded(photo, quality=60), encoded(photo, quality=5), photo):
        ours, theirs = (restorers[name].restore(data, quality=asked).pixels for name in ("joined", chosen))
        np.testing.assert_array_equal(ours, theirs)


def test_pixels_choose_by_what_is_read_from_them(
    restorers: dict[str, Restorer], photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = set()
    for read in (UP_TO, UP_TO + 1):
        monkeypatch.setattr("unjpeg.network.Guidance.quality", read)
        name = "strong" if read <= UP_TO else "base"
        ours, theirs = (restorers[which].restore(photo, consistency="strict").pixels for which in ("joined", name))
        np.testing.assert_array_equal(ours, theirs)
        chosen.add(ours.tobytes())
    assert len(chosen) == 2


def test_an_earlier_jpeg_chooses(restorers: dict[str, Restorer], kitten: Path) -> None:
    """What did the damage, not the last file."""
    low = read_picture(encoded(np.asarray(Image.open(kitten).convert("RGB")), quality=10)).pixels
    again = saved(low, "JPEG", quality=92, subsampling=0)
    result = restorers["joined"].restore(again)
    assert [jpeg.quality for jpeg in result.report.earlier] == [10]
    np.testing.assert_array_equal(result.pixels, restorers["strong"].restore(again).pixels)


def test_in_steps_and_shared_and_pickled_it_is_the_same(
    restorers: dict[str, Restorer], joined: Path, photo: np.ndarray
) -> None:
    data = encoded(photo, quality=10)
    expected = restorers["strong"].restore(data).pixels
    restorer = restorers["joined"]
    in_steps = restorer.finish(restorer.run_network(read_picture(data))).pixels
    shared = restorer.sharing(joined)
    for pixels in (in_steps, shared.restore(data).pixels, pickle.loads(pickle.dumps(restorer)).restore(data).pixels):
        np.testing.assert_array_equal(pixels, expected)
    assert shared._strong_network() is restorer._strong_network()


def test_they_are_loaded_when_they_are_needed(joined: Path, photo: np.ndarray) -> None:
    restorer = Restorer(joined, precision="full")
    restorer.restore(encoded(photo, quality=60))
    assert restorer._strong is None
    restorer.restore(encoded(photo, quality=10))
    assert restorer._strong is not None


def test_copies_load_both_once(joined: Path) -> None:
    """Whichever is first: a model that is loaded lets its graphs go."""
    restorer = Restorer(joined, precision="full")
    copied = copy.copy(restorer)
    assert copied._strong_network() is restorer._strong_network()
    assert copied.network is restorer.network


def test_a_network_for_other_programs_has_them(base: ModelFile, joined: Path, tmp_path: Path) -> None:
    from unjpeg.blind import export_blind

    base.write(tmp_path / "base.unjpeg")
    for quality, same in ((UP_TO, False), (UP_TO + 1, True), (None, True)):
        for model in (joined, tmp_path / "base.unjpeg"):
            export_blind(model, tmp_path / f"{model.stem}.safetensors", quality=quality)
        ours, theirs = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("tiny", "base"))
        header = int.from_bytes(ours[:8], "little")  # the metadata name the model
        assert (ours[8 + header :] == theirs[8 + int.from_bytes(theirs[:8], "little") :]) == same


def test_the_command(base: ModelFile, strong: ModelFile, joined: Path, tmp_path: Path) -> None:
    base.write(tmp_path / "base.unjpeg")
    strong.write(tmp_path / "strong.unjpeg")
    put_together(tmp_path / "base.unjpeg", tmp_path / "strong.unjpeg", UP_TO, tmp_path / "out.unjpeg")
    assert (tmp_path / "out.unjpeg").read_bytes() == joined.read_bytes()


def test_what_does_not_fit_is_refused(base: ModelFile, strong: ModelFile) -> None:
    def other(**facts: object) -> ModelFile:
        return replace(strong, description=replace(strong.description, **facts))  # type: ignore[arg-type]

    for up_to in (0, 100):
        with pytest.raises(ValueError, match="in 1"):
            base.with_strong(strong, up_to)
    for file, part in (
        (other(network={**strong.description.network, "width": 9}), "network"),
        (other(sha256={**strong.description.sha256, "guide": ""}), "guide"),
        (other(total_stride=64), "stride"),
        (replace(strong, calibration=None), "kind of calibration"),
        (other(guide_windows=3), "number of windows"),
        (replace(strong, restore_int8=b""), "choice of graphs"),
    ):
        with pytest.raises(ModelError, match=f"another {part} than"):
            base.with_strong(file, UP_TO)


def described(facts: object) -> dict[str, bytes]:
    return {"strong/model.json": json.dumps(facts).encode()}


def test_each_set_is_changed_alone(base: ModelFile, strong: ModelFile, joined: Path, tmp_path: Path) -> None:
    both = ModelFile.read(joined)
    seen = []

    def change(file: ModelFile) -> ModelFile:
        seen.append((file.restore, file.strong, file.description.strong_up_to))
        return file

    assert both.of_each_set(change).hash == both.hash
    assert seen == [(base.restore, None, 0), (strong.restore, None, 0)]
    for name, file in {"alone": replace(both, strong=None), "in float": both.without_integers()}.items():
        file.write(tmp_path / f"{name}.unjpeg")
        assert (ModelFile.read(tmp_path / f"{name}.unjpeg").strong is None) == (name == "alone")


def test_its_graphs_are_let_go_once_they_are_compiled(joined: Path, photo: np.ndarray) -> None:
    restorer = Restorer(joined, precision="full")
    restorer.restore(encoded(photo, quality=10))
    strong = restorer.model_file.strong
    assert strong is not None
    assert (strong.guide, strong.restore, strong.restore_int8) == (b"", b"", None)


def test_damage_is_found(joined: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(joined) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}

    def failure(contents: dict[str, bytes]) -> str:
        path = tmp_path / "damaged.unjpeg"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
        with pytest.raises(ModelError) as caught:
            ModelFile.read(path)
        return str(caught.value)

    for name in ("strong/model.json", "strong/restore.onnx", "strong/calibration.npy"):
        assert "not a readable model file" in failure({key: data for key, data in whole.items() if key != name})
    assert "'restore' does not match its hash" in failure(whole | {"strong/restore.onnx": whole["restore.onnx"]})
    facts = json.loads(whole["strong/model.json"])
    rounded = {**facts, "sha256": {**facts["sha256"], "restore_int8": hashlib.sha256(b"").hexdigest()}}
    for changed, words in (
        ({"strong/restore-int8.onnx": b""} | described(rounded), "another choice of graphs"),
        (described({**facts, "network": {**facts["network"], "width": 9}}), "another network"),
        (described({**facts, "format_version": 2}), "has format 2"),
        (described({**facts, "sha256": [1]}), "not a readable"),
        (described({**facts, "network": 3}), "not a readable"),
        (described("name sha256 guide_window total_stride quality_levels format_version"), "not a readable"),
    ):
        assert words in failure(whole | changed)
    common = json.loads(whole["model.json"])
    for up_to in (-5, 100, 1e300, float("inf"), "x", [1]):
        changed = {"model.json": json.dumps({**common, "strong_up_to": up_to}).encode()}
        assert "not a readable" in failure(whole | changed)
    assert "not a readable" in failure(whole | {"strong/calibration.npy": b""})
