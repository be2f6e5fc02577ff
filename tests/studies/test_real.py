"""Pictures without originals, before and after."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from conftest import synthetic_photo

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")

from studies.real import LEAST_SIDE, choose_files, main
from unjpeg.errors import MeasurementError, SettingError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of seven qualities, one that is too small, one that is no JPEG, one that is broken."""
    folder = tmp_path_factory.mktemp("real")
    pixels = synthetic_photo(LEAST_SIDE, LEAST_SIDE, 0)
    for quality in (20, 30, 40, 50, 60, 70, 95):
        Image.fromarray(pixels).save(folder / f"q{quality}.jpg", quality=quality)
    Image.fromarray(pixels[:64]).save(folder / "small.jpg", quality=40)
    Image.fromarray(pixels).save(folder / "lossless.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_files_are_spread_over_their_qualities(folder: Path) -> None:
    def choose(least: int, most: int, count: int) -> list[int]:
        return [file.quality for file in choose_files(folder, least, most, count, 4.0)]

    assert choose(1, 85, 3) == [20, 40, 70]
    assert choose(1, 85, 50) == [20, 30, 40, 50, 60, 70]
    assert choose(90, 100, 1) == [95]
    with pytest.raises(MeasurementError, match="holds no JPEG of quality 1 to 10"):
        choose(1, 10, 3)
    with pytest.raises(MeasurementError, match=r"at most 0\.01 megapixels"):
        choose_files(folder, 1, 85, 3, 0.01)


def test_one_sheet_shows_them_before_and_after(
    folder: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "sheet.webp"
    main(folder, str(tiny_model), "20-40", 2, 4.0, out)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["q20.jpg", "q40.jpg"]
    with Image.open(out) as sheet:
        assert sheet.width > 2 * LEAST_SIDE
    with pytest.raises(SettingError, match="two qualities are wanted"):
        main(folder, str(tiny_model), "20", 2, 4.0, out)
    with pytest.raises(SettingError, match=r"ends in \.png or \.webp"):
        main(folder, str(tiny_model), "20-40", 2, 4.0, tmp_path / "sheet.gif")
