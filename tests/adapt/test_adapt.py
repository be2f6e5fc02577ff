"""``unjpeg adapt``: what it refuses in one line, and a whole adaptation of a tiny model."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from conftest import synthetic_photo
from unjpeg.adapt import folders as looking
from unjpeg.adapt import model as adapting
from unjpeg.adapt.domains import Patches, join_alike, trained_degradation, turn_stated
from unjpeg.adapt.model import DEFAULT_ADAPTATION, AdaptationReport, TargetPictures, adapt_model
from unjpeg.cli import adapt as adapt_command
from unjpeg.cli import app
from unjpeg.console import run_safely
from unjpeg.datasets import ImageFolder
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.modelfile import SELF_ENSEMBLES, ModelFile
from unjpeg.models import Dagn, DagnConfig
from unjpeg.models.exported import load_exported
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.train.config import VALIDATION_FRACTION, LearningRate
from unjpeg.train.data import is_validation
from unjpeg.train.degrade import JpegDegradation, standard_stated
from unjpeg.train.pipeline import make_fabric
from unjpeg.train.run import TrainingImages

SIDE = 80


def silent(_line: str) -> None:
    pass


def fill(folder: Path, count: int, *, seed: int, format: str = "webp", side: int = SIDE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 20} if format == "webp" else {}
    for number in range(count):
        pixels = synthetic_photo(side, side + 16, seed + number)
        Image.fromarray(pixels).save(folder / f"{number:02d}.{format}", **options)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", 6, seed=0, format="png", side=128)


def adapt(model: Path, target: Path, source: Path, out: Path, *options: str, code: int = 1) -> Result:
    arguments = ["adapt", model, "--target", target, "--source", source, "--out", out, "--by", "adversary", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such folder"),
        ("empty", "no images in this folder"),
        ("three", "3 usable pictures are too little to adapt to; give 10 or more"),
        ("unreadable", "9 usable pictures are too little"),
        ("small", "0 usable pictures are too little"),
        ("the source", "target: is the source itself"),
        ("in the source", "target: lies in the source"),
        ("around the source", "target: holds the source"),
        ("a copy", "is also in the source"),
    ],
)
def test_bad_targets_are_each_one_line(kind: str, message: str, tiny_model: Path, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if kind == "empty":
        target.mkdir()
        (target / "notes.txt").write_text("no picture")
    elif kind == "three":
        fill(target, 3, seed=10)
    elif kind == "unreadable":
        fill(target, 9, seed=10)
        (target / "broken.webp").write_bytes(b"RIFF....WEBP")
    elif kind == "small":
        fill(target, 12, seed=10, side=16)
    elif kind == "the source":
        target.symlink_to(source)
    elif kind == "in the source":
        target = fill(source / "target", 12, seed=10)
    elif kind == "around the source":
        source = fill(target / "below", 12, seed=10)
    elif kind == "a copy":
        fill(target, 12, seed=10)
        shutil.copy(source / "03.png", target / "renamed.png")
    with pytest.raises(TrainingDataError) as raised:
        adapt(tiny_model, target, source, tmp_path / "out")
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


def complaint(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and lines on standard error of the command as a user runs it."""
    with pytest.raises(SystemExit) as raised:
        run_safely(lambda: app([str(argument) for argument in arguments]))
    return int(raised.value.code or 0), capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("kind", ["no folder", "a file", "the model's place", "the report's place"])
def test_an_output_that_cannot_be_written_is_one_line_before_anything_is_read(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = {"no folder": Path("/proc/self"), "a file": tmp_path / "file"}.get(kind, tmp_path / "out")
    (tmp_path / "file").touch()
    for name, place in (("the model's place", "adapted.unjpeg"), ("the report's place", "report.json")):
        if kind == name:
            (out / place).mkdir(parents=True)
    nowhere = tmp_path / "nowhere"  # neither model nor pictures are there: they are not asked for
    code, lines = complaint(["adapt", nowhere, "--target", nowhere, "--source", nowhere, "--out", out], capsys)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"unjpeg: {out}")


def test_folders_are_looked_at_before_torch_is_loaded(tmp_path: Path, child_environment: dict[str, str]) -> None:
    code = """
import sys
sys.modules["torch"] = None  # importing it fails
from unjpeg.cli import main
main()
"""
    missing = tmp_path / "missing"
    arguments = ["adapt", "fast", "--target", missing, "--source", tmp_path / "other", "--out", tmp_path / "out"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=child_environment
    )
    assert (ran.returncode, ran.stderr) == (1, f"unjpeg: {tmp_path / 'other'}: no such folder of images\n")


def test_exit_codes_of_bad_input(
    tiny_model: Path,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = ["--source", source, "--out", tmp_path / "out", "--by", "adversary"]
    monkeypatch.setenv("UNJPEG_DATA", str(tmp_path / "no data"))
    code, lines = complaint(["adapt", tiny_model, "--target", "live1", *common], capsys)  # a data set's name
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("unjpeg: live1: no folder")
    code, lines = complaint(["adapt", tiny_model, "--target", tmp_path / "missing", *common], capsys)
    assert (code, lines) == (1, [f"unjpeg: {tmp_path / 'missing'}: no such folder of images"])
    target = fill(tmp_path / "target", 12, seed=40)
    for setting in ("ramp=maybe", "nonesuch=1", "steps=3", "patch=32", "batch=0", "ramp"):
        code, lines = complaint(["adapt", tiny_model, "--target", target, *common, "--set", setting], capsys)
        assert (code, len(lines)) == (2, 1)
        assert setting in lines[0]


def test_a_data_set_can_be_the_target(
    tiny_model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(tmp_path / "live1", 3, seed=40)
    monkeypatch.setattr(looking, "resolved", lambda name: place if name == "live1" else Path(name))
    with pytest.raises(TrainingDataError, match="live1: 3 usable pictures are too little"):
        adapt_model(str(tiny_model), Path("live1"), [str(source)], tmp_path / "out")


def test_unreadable_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "target", 12, seed=10)
    (folder / "broken.webp").write_bytes(b"RIFF....WEBP")
    (folder / "empty.jpg").touch()
    said: list[str] = []
    pictures = TargetPictures.read(folder, 64, said.append)
    assert pictures.counts == (9, 3)
    assert pictures.left_out == tuple(said)
    assert [line.split(":")[0] for line in said] == [str(folder / "broken.webp"), str(folder / "empty.jpg")]
    assert all(line.endswith("; left out") for line in said)


def test_the_command_has_the_defaults_of_the_function() -> None:
    given = {name: parameter.default for name, parameter in signature(adapt_command).parameters.items()}
    default = adapting.DEFAULT_ADAPTATION
    assert given["steps"] is None
    assert adapting.configure_adaptation([], strength=0.1, max_source_loss_db=1).steps == default.steps
    assert "with an adversary 1000" in str(signature(adapt_command).parameters["steps"]).replace("\n", " ")
    assert default.steps == 1000
    assert given["strength"] == default.strength
    assert given["max_loss"] == default.max_source_loss_db


@pytest.mark.parametrize("option", ["--strength", "--max-loss"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_impossible_numbers_are_wrong_usage(
    option: str, value: str, tiny_model: Path, source: Path, tmp_path: Path
) -> None:
    adapt(tiny_model, tmp_path, source, tmp_path / "out", option, value, code=2)


# --- what is read of the target -----------------------------------------------------------------------------------


def test_target_patches_lie_on_the_grid_and_apart_from_the_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    for number in range(10):  # each 16x16 block has its own shade, each picture its own blue
        shades = np.arange(25, dtype=np.uint8).reshape(5, 5).repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(np.dstack([shades, shades, np.full_like(shades, number)])).save(folder / f"{number}.png")
    pictures = TargetPictures.read(folder, 32, silent)
    assert {int(patch[0, 0, 2]) for patch in pictures.held_out} == {0, 5}
    assert {int(patch[0, 0, 2]) for patch in pictures.training} == set(range(10)) - {0, 5}
    assert len(pictures.held_out) == 2 * 16
    assert len({patch.tobytes() for patch in pictures.held_out}) == 2 * 16
    for patch in pictures.training:
        blocks = patch[..., 0].reshape(2, 16, 2, 16)
        assert all((blocks[i, :, j] == blocks[i, 0, j, 0]).all() for i in range(2) for j in range(2))


def test_a_told_model_is_told_of_its_target_what_it_is_told_in_restoring(tmp_path: Path) -> None:
    file = ModelFile.read("fast")
    folder = fill(tmp_path / "target", 10, seed=0, side=96)
    Image.open(next(folder.iterdir())).save(folder / "photo.jpg", quality=30)
    told = adapting._told_by_restoring(file)
    pictures = TargetPictures.read(folder, 96, silent, told)
    restorer = Restorer(file)
    expected = {restorer.guide(read_picture(path)).stated.tobytes() for path in folder.iterdir()}
    stated = [*pictures.training_stated, *pictures.held_out_stated]
    assert {one.tobytes() for one in stated} == expected
    assert all(one.any() for one in stated)
    assert len(stated) == len(pictures.training) + len(pictures.held_out)


def test_patches_of_one_picture_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "PATCHES_PER_PICTURE", 2)
    pictures = TargetPictures.read(fill(tmp_path / "target", 10, seed=0, format="png"), 32, silent)
    assert (len(pictures.training), len(pictures.held_out)) == (16, 4)
    again = TargetPictures.read(tmp_path / "target", 32, silent)
    assert all(np.array_equal(a, b) for a, b in zip(pictures.training, again.training, strict=True))


# --- a whole adaptation -------------------------------------------------------------------------------------------


def test_an_adapted_model_restores(
    tiny_model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = fill(tmp_path / "target", 12, seed=40)
    said: list[str] = []
    config = replace(DEFAULT_ADAPTATION, steps=4, batch=2, checkpoint_every=2, max_source_loss_db=5.0)

    def run(steps: int = 4) -> adapting.AdaptationReport:
        return adapt_model(
            str(tiny_model),
            target,
            [str(source)],
            tmp_path / "out",
            config=replace(config, steps=steps),
            accelerator="cpu",
            precision="32-true",
            probe_steps=2,
            say=said.append,
        )

    report = run()
    assert (report.target_pictures, report.held_out_pictures, report.steps) == (12, 3, 4)
    assert report.stopped_at_step is None
    assert 0 <= report.accuracy_before <= 1
    assert 0 <= report.accuracy_after <= 1
    assert any("told right" in line for line in said)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["steps"] == 4

    start, adapted = ModelFile.read(tiny_model), ModelFile.read(tmp_path / "out" / "adapted.unjpeg")
    assert adapted.description.name == f"{start.description.name}-adapted"
    np.testing.assert_array_equal(adapted.quality_features, start.quality_features)
    before, after = (load_exported(file).state_dict() for file in (start, adapted))
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"head.weight", "tail.weight"} <= changed
    assert not any(name.startswith(("insensitive_encoder", "sensitive_encoder", "quality_pred")) for name in changed)

    picture = target / "00.webp"
    pixels = Restorer(tmp_path / "out" / "adapted.unjpeg").restore(picture).pixels
    assert pixels.shape == (SIDE, SIDE + 16, 3)

    written = (tmp_path / "out" / "adapt.safetensors").read_bytes()
    assert run().steps == 4  # finished: measured again, not trained again
    assert (tmp_path / "out" / "adapt.safetensors").read_bytes() == written
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (kept["start"], kept["start_hash"]) == (str(tiny_model), start.hash)
    assert (kept["seed"], kept["strength"], kept["steps_asked"]) == (0, 0.01, 4)
    assert kept["images"]["target_pictures"] == 12
    assert kept["machine"]["cores"] > 0
    assert {"commit", "unjpeg"} <= kept.keys()
    assert kept["source_blind_psnr_db_after"] is None  # this model is told nothing
    monkeypatch.setattr(adapting, "measure_domain_accuracy", None)  # refused before anything is measured
    with pytest.raises(TrainingError, match="another configuration"):
        run(steps=6)


class Exported(NamedTuple):
    """What a quick adaptation would have written."""

    network: Dagn
    options: dict[str, Any]


@pytest.fixture
def quick(
    tiny_model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[AdaptationReport, Exported]]:
    """One step with a probe of none, nothing exported; ``network`` takes the place of the model's weights."""

    def adapt_quickly(
        file: ModelFile | None = None, network: Dagn | None = None, format: str = "webp", **changes: Any
    ) -> tuple[AdaptationReport, Exported]:
        target = fill(tmp_path / f"target-{format}", 12, seed=40, format=format)
        exported: list[Exported] = []
        with monkeypatch.context() as patch:
            patch.setattr(ModelFile, "read", lambda _name: file or adapting_file)
            if network is not None:
                patch.setattr(adapting, "load_exported", lambda _file: network)
            patch.setattr(
                adapting, "export_network", lambda one, _path, **options: exported.append(Exported(one, options))
            )
            config = replace(DEFAULT_ADAPTATION, **{"steps": 1, "batch": 2, "max_source_loss_db": 9.0} | changes)
            report = adapt_model(
                "a model",
                target,
                [str(source)],
                tmp_path / "out",
                config=config,
                accelerator="cpu",
                precision="32-true",
                probe_steps=1,
            )
        return report, exported[0]

    adapting_file = ModelFile.read(tiny_model)
    return adapt_quickly


Quick = Callable[..., tuple[AdaptationReport, Exported]]


def test_a_source_that_collapses_at_once_writes_nothing(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psnr = iter([30.0, 20.0])
    monkeypatch.setattr(adapting, "measure_psnr_db", lambda *_, **__: {"psnr_db_q10": next(psnr)})
    collapse = r"lost more than 0\.1 dB .* within 1 steps; no model was written"
    with pytest.raises(TrainingError, match=collapse):
        quick(max_source_loss_db=0.1)
    assert not (tmp_path / "out" / "adapted.unjpeg").exists()
    monkeypatch.setattr(adapting, "measure_domain_accuracy", None)
    with pytest.raises(TrainingError, match=collapse) as again:  # known at once
        quick(max_source_loss_db=0.1)
    # Both ways out that it names are ways out.
    with pytest.raises(TrainingError, match=r"another configuration.*strength"):
        quick(max_source_loss_db=0.1, strength=0.001)
    checkpoint = tmp_path / "out" / "adapt.safetensors"
    assert "another --out" in str(again.value)
    assert f"remove {checkpoint} first" in str(again.value)
    checkpoint.unlink()
    monkeypatch.undo()
    assert quick(max_source_loss_db=9.0, strength=0.01)[0].steps == 1


def test_what_a_model_file_holds_besides_its_weights_is_kept_or_missed(quick: Quick, tiny_model: Path) -> None:
    file = ModelFile.read(tiny_model)
    file = replace(
        file,
        description=replace(
            file.description,
            guide_windows=7,
            passes=4,
            name="best",
            sha256={**file.description.sha256, "restore_int8": "its hash"},
        ),
        restore_int8=b"a graph",
    )
    report, exported = quick(file)
    assert exported.options["guide_windows"] == 7
    assert any("no int8 graph; python -m unjpeg.train.int8" in note for note in report.notes)
    assert any("is the mean over 4 flips" in note for note in report.notes)


def test_best_is_said_to_be_default() -> None:
    file = ModelFile.read("best")
    assert file.description.passes == 4
    assert SELF_ENSEMBLES["best"][0] == "default"


def test_a_source_without_a_picture_to_spare_is_said(quick: Quick, source: Path, tmp_path: Path) -> None:
    def says_so() -> bool:
        return any("no picture to spare" in note for note in quick()[0].notes)

    for file in source.iterdir():
        if is_validation(file, VALIDATION_FRACTION):
            file.unlink()
    assert says_so()
    (tmp_path / "out" / "adapt.safetensors").unlink()
    names = (Path(f"spare-{number}.png") for number in itertools.count())
    spare = next(name for name in names if is_validation(name, VALIDATION_FRACTION))
    Image.fromarray(synthetic_photo(128, 144, 99)).save(source / spare)
    assert not says_so()


def test_an_adversary_that_stayed_at_chance_is_said(quick: Quick) -> None:
    report, _ = quick(strength=0.1, learning_rate=LearningRate(0.0))
    assert report.least_quality_loss is not None
    assert report.least_quality_loss > adapting.INERT
    assert any("the adversary did not tell source from target" in note for note in report.notes)


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_a_model_that_is_told_is_watched_told_and_blind(
    format: str, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = Dagn(DagnConfig(width=8, scales=2, blocks=1, stem=2, encoder_width=2, stated=True))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compared: list[Tensor] = []

    def watch(source: Patches, target: Patches) -> Patches:
        both = join_alike(source, target)
        assert both.stated is not None
        compared.append(both.stated.any(dim=1))
        return both

    monkeypatch.setattr("unjpeg.adapt.carn.join_alike", watch)
    report, exported = quick(network=network, format=format)
    # As in restoring: of a JPEG its own words, of any other picture what its pixels show.
    assert compared
    assert all(told.all() for told in compared)
    assert report.source_blind_psnr_db_before is not None
    assert report.source_blind_psnr_db_before == pytest.approx(report.source_psnr_db_before, abs=1)
    names = {name.rsplit("_q", 1)[0] for name in exported.options["validation"]}
    assert names == {"psnr_db", "psnr_db_blind"}
    moved = {name for name, value in exported.network.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("stated.") for name in moved)  # the denoiser heard what was stated


def test_the_degradation_is_what_the_model_was_trained_on(tiny_model: Path) -> None:
    file = ModelFile.read(tiny_model)
    trained = JpegDegradation(5, 90, skew=1.5, real_life=0.25)
    config: dict[str, Any] = file.description.training["config"]
    config["dagn"]["degradation"] = asdict(trained)
    assert trained_degradation(file) == trained
    config["dagn"]["degradation"] = {"min_quality": 5, "max_quality": 90}
    assert trained_degradation(file) == JpegDegradation(5, 90)
    del config["dagn"]
    assert trained_degradation(file) == JpegDegradation()


def test_both_domains_are_turned_alike(source: Path, tmp_path: Path) -> None:
    """After the compression, too: of a source whose tables lie, half of the patches state them upright."""
    images = TrainingImages.open([ImageFolder(source)], validation_fraction=0, cache_dir=tmp_path / "cache")
    clean = adapting._fresh(images, 0, 32, JpegDegradation(40, 40), 16, 0, told=True)
    pair = clean.batch(0)
    assert pair.stated is not None
    upright = standard_stated(40)
    is_upright = [np.array_equal(row, upright) for row in pair.stated.numpy()]
    assert {row.numpy().tobytes() for row in pair.stated} == {upright.tobytes(), turn_stated(upright, 1).tobytes()}
    assert 3 < sum(is_upright) < 13
    assert not torch.equal(pair.compressed, pair.original)
    assert float((pair.compressed.float() - pair.original.float()).abs().mean()) < 10  # and with their originals


def test_fabric_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    make_fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    assert capfd.readouterr() == ("", "")
