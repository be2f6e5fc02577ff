from __future__ import annotations

import errno
import hashlib
import io
import json
import locale
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from unjpeg.errors import ModelError, OutputError
from unjpeg.modelfile import FORMAT_VERSION, SUFFIX, ModelFile, shipped_models
from unjpeg.network import Guidance, Model
from unjpeg.projection import Calibration
from unjpeg.restorer import Restorer
from unjpeg.runtimes import Runtime
from unjpeg.tables import stated_features

CALIBRATION = Calibration((10, 50, 100), np.random.default_rng(0).random((3, 2, 2, 2, 8, 8), np.float32))


@pytest.fixture(scope="module")
def file(tiny_model: Path) -> ModelFile:
    return ModelFile.read(tiny_model)


def failure(path: Path) -> str:
    """The one line that reading raises."""
    with pytest.raises(ModelError) as caught:
        ModelFile.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def with_graph(file: ModelFile, part: str, graph: bytes) -> ModelFile:
    """Another graph under the hash that belongs to it."""
    hashes = {**file.description.sha256, part: hashlib.sha256(graph).hexdigest()}
    changed: dict[str, Any] = {part: graph, "description": replace(file.description, sha256=hashes)}
    return replace(file, **changed)


# What is compiled is kept


def outputs(file: ModelFile) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    model = Model(file, runtime="openvino", threads=1)
    image = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    guidance = model.guide(image[..., : model.guide_window, : model.guide_window])
    return [guidance.insensitive, guidance.fusion, guidance.quality_probabilities, model.restore(image, guidance)]


def test_a_compiled_graph_that_was_kept_gives_the_same_pixels(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    plain = outputs(file)
    assert not Path("relative").exists()

    def agrees() -> None:
        for here, there in zip(outputs(file), plain, strict=True):
            np.testing.assert_array_equal(here, there)

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    agrees()
    kept = sorted(cache.glob("unjpeg/openvino-*/*.blob"))
    assert len(kept) == 2
    assert kept[0].parent.stat().st_mode & 0o077 == 0 or os.name == "nt"
    agrees()  # from what was kept
    assert sorted(cache.glob("unjpeg/openvino-*/*.blob")) == kept
    for blob in kept:
        data = blob.read_bytes()
        blob.chmod(0o600)
        blob.write_bytes(data[: len(data) // 2])
    agrees()  # in spite of it
    assert [blob.stat().st_size > 1000 for blob in kept] == [True, True]


@pytest.mark.parametrize("obstacle", ["a file", "in the way"])
def test_without_a_folder_for_it_graphs_are_compiled_as_ever(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    place = tmp_path / "cache"
    if obstacle == "a file":
        place.write_bytes(b"")
    else:
        place.mkdir()
        (place / "unjpeg").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    assert outputs(file)[-1].shape == (1, 3, 96, 96)


def test_a_runtime_that_cannot_keep_it_compiles_all_the_same(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    asked = []
    plain = openvino.Core.compile_model

    def full_disk(core: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        asked.append("CACHE_DIR" in settings)
        if "CACHE_DIR" in settings:
            raise RuntimeError("no space left on device")
        return plain(core, model, device, settings)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openvino.Core, "compile_model", full_disk)
    assert outputs(file)[-1].shape == (1, 3, 96, 96)
    assert asked == [True, False] * 2


# Files


def test_a_file_says_what_it_is(file: ModelFile) -> None:
    assert file.description.name == "tiny"
    assert file.description.format_version == FORMAT_VERSION
    assert len(file.hash) == 16
    assert file.quality_features.dtype == np.float32
    assert file.quality_features.shape[0] == len(file.description.quality_levels)


def test_writing_gives_the_same_bytes_each_time(file: ModelFile, tiny_model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.unjpeg", "b.unjpeg")]
    for path in paths:
        file.write(path)
    assert paths[0].read_bytes() == paths[1].read_bytes() == tiny_model.read_bytes()
    again = ModelFile.read(paths[0])
    assert (again.description, again.guide, again.restore) == (file.description, file.guide, file.restore)
    np.testing.assert_array_equal(again.quality_features, file.quality_features)
    assert again.hash == file.hash


def test_a_write_that_fails_leaves_what_was_there(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.unjpeg"
    path.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.unjpeg.*No space left"):
        file.write(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.unjpeg": b"before"}


def test_the_hash_is_of_the_graphs(file: ModelFile) -> None:
    assert with_graph(file, "guide", b"x").hash != with_graph(file, "restore", b"x").hash != file.hash
    assert replace(file, description=replace(file.description, name="other")).hash == file.hash


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        ModelFile.read("nonexistent")
    assert "no such model" in failure(tmp_path / "missing.unjpeg")
    assert "no such model" in failure(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip archive at all", bytes(5000)])
def test_no_archive(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.unjpeg"
    path.write_bytes(data)
    assert "not a readable model file" in failure(path)


@pytest.mark.parametrize("part", ["guide", "restore"])
def test_a_graph_that_its_hash_does_not_fit(part: str, tiny_model: Path, tmp_path: Path) -> None:
    contents = members(tiny_model)
    graph = bytearray(contents[f"{part}.onnx"])
    graph[len(graph) // 2] ^= 1
    contents[f"{part}.onnx"] = bytes(graph)
    assert f"'{part}' does not match its hash" in failure(written(tmp_path / "m.unjpeg", contents))


def test_a_byte_flipped_on_disk(tiny_model: Path, tmp_path: Path, file: ModelFile) -> None:
    """Anywhere: in the payload it is noticed, in the archive's own fields it is noticed or means nothing."""
    data = tiny_model.read_bytes()
    path = tmp_path / "m.unjpeg"
    directory = data.rindex(b"PK\1\2", 0, len(data) - 200)
    positions = [*range(40), *range(2000, len(data) - 2000, 40_000), *range(directory, len(data), 3)]
    for position in positions:
        for flip in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[position] ^= flip
            path.write_bytes(changed)
            try:
                read = ModelFile.read(path)
            except ModelError:
                failure(path)
            else:
                assert (read.guide, read.restore, read.description) == (file.guide, file.restore, file.description)


def test_cut_off(tiny_model: Path, tmp_path: Path) -> None:
    data = tiny_model.read_bytes()
    path = tmp_path / "m.unjpeg"
    for end in (10, 1000, len(data) // 2, len(data) - 10, len(data) - 1):
        path.write_bytes(data[:end])
        failure(path)


@pytest.mark.parametrize("name", ["model.json", "guide.onnx", "restore.onnx", "quality_features.npy"])
def test_a_missing_member(name: str, tiny_model: Path, tmp_path: Path) -> None:
    contents = members(tiny_model)
    del contents[name]
    assert name in failure(written(tmp_path / "m.unjpeg", contents))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "has format 2"),
        ({"format_version": None}, "has format None"),
        ({"sha256": None}, "not a readable"),
        ({"sha256": {}}, "not a readable"),
        ({"sha256": {"guide": "", "restore": ""}}, "does not match its hash"),
        ({"name": ...}, "lacks name"),
        ({"guide_window": ..., "total_stride": ...}, "lacks guide_window, total_stride"),
    ],
)
def test_a_wrong_description(changes: dict[str, Any], words: str, tiny_model: Path, tmp_path: Path) -> None:
    contents = members(tiny_model)
    description = {**json.loads(contents["model.json"]), **changes}
    kept = {key: value for key, value in description.items() if value is not ...}
    assert words in failure(written(tmp_path / "m.unjpeg", {**contents, "model.json": json.dumps(kept).encode()}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_description_that_is_none(data: bytes, tiny_model: Path, tmp_path: Path) -> None:
    assert "not a readable" in failure(written(tmp_path / "m.unjpeg", {**members(tiny_model), "model.json": data}))


def test_a_calibration_is_kept_and_counts_as_part_of_the_model(file: ModelFile, tmp_path: Path) -> None:
    assert file.calibration is None
    calibrated = file.calibrated(CALIBRATION)
    calibrated.write(tmp_path / "m.unjpeg")
    again = ModelFile.read(tmp_path / "m.unjpeg")
    assert again.calibration is not None
    assert again.calibration.qualities == CALIBRATION.qualities
    np.testing.assert_allclose(again.calibration.shares_L22288, CALIBRATION.shares_L22288, atol=1e-3)
    assert again.hash == calibrated.hash
    assert again.hash != file.hash
    assert again.hash != file.calibrated(Calibration((10, 50, 100), np.float32(0.5) * CALIBRATION.shares_L22288)).hash
    assert (again.guide, again.restore) == (file.guide, file.restore)


def test_a_calibration_with_one_share_for_the_whole_cell(tiny_model: Path, tmp_path: Path) -> None:
    """As files before the halves of cells had their own."""
    shares, buffer = np.random.default_rng(1).random((2, 2, 2, 8, 8)).astype(np.float16), io.BytesIO()
    np.save(buffer, shares)
    contents = members(tiny_model)
    description = {**json.loads(contents["model.json"]), "calibration_levels": [10, 50]}
    changed = {**contents, "model.json": json.dumps(description).encode(), "calibration.npy": buffer.getvalue()}
    calibration = ModelFile.read(written(tmp_path / "m.unjpeg", changed)).calibration
    assert calibration is not None
    np.testing.assert_array_equal(calibration.shares_L22288, np.stack([shares, shares], axis=3).astype(np.float32))


@pytest.mark.parametrize(
    ("levels", "shares"),
    [
        ([10, 50], np.ones((3, 2, 2, 8, 8))),
        ([10, 50, 50], np.ones((3, 2, 2, 8, 8))),
        ([50], np.ones((1, 2, 2, 8, 8))),
        ([10, 50], np.ones((2, 2, 8, 8))),
        ([10, 50], np.full((2, 2, 2, 8, 8), 1.1)),
        ([10, 50], np.full((2, 2, 2, 2, 8, 8), 1.1)),
        ([10, 50], np.full((2, 2, 2, 2, 8, 8), -0.1)),
        ([10, 50], np.ones((2, 2, 2, 3, 8, 8))),
        ([10, 50], np.full((2, 2, 2, 8, 8), np.nan)),
        (None, np.ones((2, 2, 2, 8, 8))),
    ],
)
def test_a_wrong_calibration(levels: Any, shares: Any, tiny_model: Path, tmp_path: Path) -> None:
    contents = members(tiny_model)
    buffer = io.BytesIO()
    np.save(buffer, shares.astype(np.float16))
    description = {**json.loads(contents["model.json"]), "calibration_levels": levels}
    changed = {**contents, "model.json": json.dumps(description).encode(), "calibration.npy": buffer.getvalue()}
    assert "not a readable" in failure(written(tmp_path / "m.unjpeg", changed))


def test_features_are_never_unpickled(tiny_model: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    contents = {**members(tiny_model), "quality_features.npy": buffer.getvalue()}
    assert "not a readable" in failure(written(tmp_path / "m.unjpeg", contents))


def test_loading_a_model_keeps_the_locale() -> None:
    """OpenVINO sets another one for a moment; two threads that do so at once would leave the process at C's."""
    before = locale.setlocale(locale.LC_CTYPE), locale.getencoding()
    file = ModelFile.read("fast")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: Model(file, precision="full"), range(6)))
    assert (locale.setlocale(locale.LC_CTYPE), locale.getencoding()) == before


def test_shipped_models_are_named_after_their_files() -> None:
    for name, path in shipped_models().items():
        assert path.name == f"{name}{SUFFIX}"
        assert ModelFile.read(name).description.name == name


# Running


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_signals_are_handled_after_models_have_gone(
    runtime: Runtime, tiny_model: Path, child_environment: dict[str, str]
) -> None:
    program = (
        "import signal, sys\n"
        "from unjpeg.modelfile import ModelFile\n"
        "from unjpeg.network import Model\n"
        "file = ModelFile.read(sys.argv[1])\n"
        "first, second = Model(file, runtime=sys.argv[2]), Model(file, runtime=sys.argv[2])\n"
        "del first, second\n"
        "signal.signal(signal.SIGINT, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    command = [sys.executable, "-c", program, str(tiny_model), runtime]
    ran = subprocess.run(command, env=child_environment, capture_output=True, text=True, check=False, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, "handled\n")


@pytest.mark.parametrize("runtime", get_args(Runtime))
@pytest.mark.parametrize("graph", [b"", b"no graph"])
def test_a_graph_that_is_none(runtime: Any, graph: bytes, file: ModelFile) -> None:
    pytest.importorskip(runtime)
    with pytest.raises(ModelError, match=f"{runtime} cannot load the model tiny") as caught:
        Model(with_graph(file, "guide", graph), runtime=runtime)
    assert "\n" not in str(caught.value)


def test_devices_and_runtimes_that_are_not_there(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="device must be"):
        Model(file, device="tpu")
    for runtime in get_args(Runtime):
        monkeypatch.setitem(sys.modules, runtime, None)
        with pytest.raises(ModelError, match="pip install"):
            Model(file, runtime=runtime)


def test_guidance_is_the_mean_over_windows(tiny_restorer: Restorer) -> None:
    model = tiny_restorer.model
    windows = np.random.default_rng(0).random((3, 3, model.guide_window, model.guide_window), np.float32)
    together, alone = model.guide(windows), [model.guide(window[None]) for window in windows]
    for part in ("insensitive", "sensitive", "fusion", "quality_probabilities"):
        mean = np.mean([getattr(one, part) for one in alone], axis=0)
        np.testing.assert_allclose(getattr(together, part), mean, atol=1e-5)
    assert together.quality_probabilities.shape == (100,)
    assert together.quality_probabilities.sum() == pytest.approx(1, abs=1e-3)


def test_what_is_stated_turns_with_the_picture() -> None:
    rng = np.random.default_rng(0)
    luma, chroma = rng.integers(1, 256, (2, 8, 8))
    features = np.zeros((1, 4), np.float32)
    guidance, turned = (
        Guidance(features, features, features, stated[None], features[0])
        for stated in (stated_features(luma, chroma, (1, 2)), stated_features(luma.T, chroma.T, (2, 1)))
    )
    np.testing.assert_array_equal(guidance.transposed().stated, turned.stated)
    np.testing.assert_array_equal(guidance.transposed().transposed().stated, guidance.stated)


def test_the_quality_read_is_the_median() -> None:
    def read(**probabilities: float) -> int:
        values = np.zeros(100, np.float32)
        for name, share in probabilities.items():
            values[int(name[1:]) - 1] = share
        return Guidance(values, values, values, values, values).quality

    assert read(q1=1) == 1
    assert read(q100=1) == 100
    assert read(q10=0.4, q20=0.3, q90=0.3) == 20
    assert read(q10=0.2, q20=0.7, q90=0.1) == 20
