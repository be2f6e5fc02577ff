"""Adapting by re-degradation: how files were compressed, and a whole adaptation of a tiny model."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features
from typer.testing import CliRunner

from conftest import synthetic_photo
from unjpeg.adapt import redegrade
from unjpeg.adapt.redegrade import (
    Recompression,
    Redegradation,
    configure_redegradation,
    read_recompressions,
    redegrade_model,
)
from unjpeg.cli import app
from unjpeg.errors import TrainingDataError, TrainingError
from unjpeg.modelfile import ModelFile
from unjpeg.models import Dagn
from unjpeg.models.exported import load_exported
from unjpeg.othercodecs import comparable_quality
from unjpeg.picture import read_picture
from unjpeg.restorer import Restorer
from unjpeg.train.export import export_network

QUICK = Redegradation(steps=4, batch=4, patch=32, checkpoint_every=2, max_source_loss_db=20)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def encode(pixels: NDArray[np.uint8], codec: str, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, codec, quality=quality)
    return stream.getvalue()


def fill(folder: Path, count: int, codec: str, *, quality: int = 20, side: int = 80, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = synthetic_photo(side, side + 16, seed + number)
        (folder / f"{number:02d}.{codec.lower()}").write_bytes(encode(pixels, codec, quality))
    return folder


@pytest.mark.parametrize("quality", [10, 35, 80])
@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "AVIF"])
def test_a_file_is_imitated(codec: str, quality: int) -> None:
    if codec == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = synthetic_photo(96, 112, 3)
    data = encode(pixels, codec, quality)
    found = Recompression.of(data, "file")
    assert found is not None
    assert found.codec == codec
    assert abs(found.quality - quality) <= (0 if codec == "JPEG" else 2)
    assert found.seen_quality == (None if codec == "JPEG" else comparable_quality(data))
    ours, theirs = found.apply(pixels).astype(float), read_picture(data).pixels.astype(float)
    lost, lost_in_file = (np.square(decoded - pixels).mean() for decoded in (ours, theirs))
    assert lost == pytest.approx(lost_in_file, rel=0.15)


def test_a_grey_jpeg_is_imitated_in_grey() -> None:
    grey = synthetic_photo(64, 64, 3)[..., 0]
    found = Recompression.of(encode(grey, "JPEG", 30), "grey.jpg")
    assert found is not None
    assert np.ptp(found.apply(synthetic_photo(64, 64, 4)), axis=2).max() == 0


def test_what_lost_nothing_is_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "target", 2, "WEBP")
    fill(folder, 2, "PNG", seed=5)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    said: list[str] = []
    assert len(read_recompressions(folder, said.append)) == 2
    assert len(said) == 3
    with pytest.raises(TrainingDataError, match="holds no lossy JPEG, WebP or AVIF"):
        read_recompressions(fill(tmp_path / "lossless", 2, "PNG"))


@pytest.mark.parametrize("clean", [True, False], ids=["clean pictures", "its own, halved"])
def test_a_whole_adaptation(tiny_model: Path, tmp_path: Path, clean: bool) -> None:
    target = fill(tmp_path / "target", 12, "WEBP", side=136)
    source = [str(fill(tmp_path / "source", 8, "PNG", seed=50, side=96))] if clean else []
    out = tmp_path / "out"
    report = redegrade_model(str(tiny_model), target, source, out, config=QUICK, accelerator="cpu")
    assert report.pairs == ("clean" if clean else "halved")
    assert report.steps == 4
    assert report.target["webp"]["files"] == 12
    assert json.loads((out / "report.json").read_text())["steps"] == 4
    adapted = ModelFile.read(out / "adapted.unjpeg")
    assert adapted.hash != ModelFile.read(tiny_model).hash
    data = next(target.glob("*.webp")).read_bytes()
    assert not np.array_equal(Restorer(adapted).restore(data).pixels, Restorer(tiny_model).restore(data).pixels)

    before = (out / "adapted.unjpeg").read_bytes()
    again = redegrade_model(str(tiny_model), target, source, out, config=QUICK, accelerator="cpu")
    assert again.target_gain_db_after == report.target_gain_db_after
    assert (out / "adapted.unjpeg").read_bytes() == before
    with pytest.raises(TrainingError, match="another"):
        redegrade_model(str(tiny_model), target, source, out, config=QUICK, seed=1, accelerator="cpu")


@pytest.mark.parametrize(
    ("up_to", "fusion", "words"),
    [(5, False, None), (90, False, "adapted ones restore all"), (5, True, "go with another guide")],
)
def test_weights_for_strong_compression_stay_unless_the_target_is_such(
    tiny_model: Path, tmp_path: Path, up_to: int, fusion: bool, words: str | None
) -> None:
    tiny = load_exported(ModelFile.read(tiny_model))
    network = Dagn(replace(tiny.config, fusion=fusion))  # fusion learns, and is a part of the guide
    network.load_state_dict({name: value for name, value in tiny.state_dict().items() if name in network.state_dict()})
    start = export_network(
        network.eval(),
        tmp_path / "anew.unjpeg",
        name="tiny",
        guide_window=32,
        quality_features=ModelFile.read(tiny_model).quality_features,
        training={},
        validation={},
    )
    start.with_strong(start, up_to).write(tmp_path / "start.unjpeg")
    target, clean = fill(tmp_path / "target", 3, "WEBP"), fill(tmp_path / "clean", 6, "PNG", seed=9)
    report = redegrade_model(str(tmp_path / "start.unjpeg"), target, [str(clean)], tmp_path / "out", config=QUICK)
    adapted = ModelFile.read(report.model)
    assert (adapted.strong is not None) == (words is None)
    said = [note for note in report.notes if "restore all" in note or "another guide" in note]
    assert len(said) == (words is not None)
    assert all(words in note for note in said if words)
    if adapted.strong:
        assert adapted.strong.restore == start.restore != adapted.restore
        assert adapted.description.strong_up_to == up_to


@pytest.mark.parametrize("stops_at", [2, 4])
def test_jpegs_that_lose_too_much_stop_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_at: int
) -> None:
    """The weights of the last checkpoint before are kept; without any there is no model."""
    target, source = fill(tmp_path / "target", 3, "WEBP"), fill(tmp_path / "source", 8, "PNG", seed=50, side=96)
    figures = iter([30.0, *[30.0] * (stops_at // 2 - 1), 29.0, 29.0])

    def validate(*_: object) -> dict[str, float]:
        return {"psnr_db": next(figures), "psnr_db_blind": 30.0, "gain_db_target": 1.0}

    monkeypatch.setattr(redegrade._Training, "_validate", validate)
    config = replace(QUICK, max_source_loss_db=0.5)
    if stops_at == 2:
        with pytest.raises(TrainingError, match=r"JPEGs lost more than 0\.5 dB within 2 steps"):
            redegrade_model(str(tiny_model), target, [str(source)], tmp_path / "out", config=config)
        assert not (tmp_path / "out" / "adapted.unjpeg").exists()
        return
    report = redegrade_model(str(tiny_model), target, [str(source)], tmp_path / "out", config=config)
    assert (report.steps, report.stopped_at_step, report.source_psnr_db_after) == (2, 4, 30.0)
    assert any(note.startswith("stopped at step 4") for note in report.notes)


def test_the_command_has_the_defaults_of_the_function() -> None:
    assert configure_redegradation([], max_source_loss_db=0.1) == Redegradation()
    assert configure_redegradation([], steps=7, max_source_loss_db=0.1).steps == 7


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--by", "adversary"], "give --source DIR"),
        (["--set", "steps=3"], "is an option of its own"),
        (["--set", "patches=3"], "there is no 'patches'"),
        ([], "too few to be their own originals"),
    ],
)
def test_one_line_says_what_is_wrong(tiny_model: Path, tmp_path: Path, options: list[str], line: str) -> None:
    target = fill(tmp_path / "target", 3, "WEBP")
    arguments = ["adapt", str(tiny_model), "--target", str(target), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert line in " ".join((done.output + str(done.exception)).replace("│", " ").split())
