"""``studies.photographs``: pictures of a list, read from clones and made smaller."""

from __future__ import annotations

import csv
import subprocess
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image, ImageCms

from conftest import synthetic_photo
from studies.photographs import Photograph, main, read_list
from unjpeg.errors import TrainingDataError

ROTATED = 6
"""EXIF's orientation of a picture that is to be turned to the right."""


def commit(repository: Path, name: str, data: bytes) -> str:
    """Put a file into a new repository; returns the commit."""
    repository.mkdir(parents=True)
    (repository / name).write_bytes(data)
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", name], [*own, "commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True)
    return found.stdout.strip()


@pytest.fixture
def listed(tmp_path: Path) -> list[Photograph]:
    """A picture of a clone that lies on its side, 3 columns more than its factor divides, and one of a package."""
    clones = tmp_path / "clones"
    image = Image.fromarray(synthetic_photo(120, 83, seed=1))
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "cat.jpg", quality=98, subsampling=0, exif=exif, icc_profile=profile)
    found = commit(clones / "someone" / "cats", "cat.jpg", (tmp_path / "cat.jpg").read_bytes())
    (clones / "walls" / "usr").mkdir(parents=True)
    Image.fromarray(synthetic_photo(40, 60, seed=2)).save(clones / "walls" / "usr" / "b.png")
    return [
        Photograph("cats/cat.jpg", 30, 20, "someone/cats", found, "cat.jpg", "83x120", "Someone", "CC0"),
        Photograph("walls/b.jpg", 30, 20, "Debian walls 1.0-2", "-", "usr/b.png", "60x40", "Else", "CC BY 4.0"),
    ]


def write(rows: list[Photograph], file: Path) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Photograph)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return file


def test_pictures_are_made_anew(listed: list[Photograph], tmp_path: Path) -> None:
    listing = write(listed, tmp_path / "list.csv")
    assert read_list(listing) == listed
    main(listing, tmp_path / "clones", tmp_path / "out")
    upright = np.rot90(np.asarray(Image.fromarray(synthetic_photo(120, 83, seed=1))), -1)[1:81]  # 83 rows: 3 cut off
    for row, original in zip(listed, (upright, synthetic_photo(40, 60, seed=2)), strict=True):
        with Image.open(tmp_path / "out" / row.file) as image:
            assert (image.size, image.format, "exif" in image.info) == ((30, 20), "JPEG", False)
            factor = original.shape[0] // 20
            means = original.reshape(20, factor, 30, factor, 3).mean(axis=(1, 3))
            assert np.abs(np.asarray(image, np.float64) - means).mean() < 4


def test_what_cannot_be_had_is_named(
    listed: list[Photograph], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = replace(listed[0], file="absent.jpg", commit="0" * 40)
    other = replace(listed[1], file="other.jpg", width=7)
    listing = write([*listed, absent, other], tmp_path / "list.csv")
    with pytest.raises(typer.Exit):
        main(listing, tmp_path / "clones", tmp_path / "out")
    said = capsys.readouterr().err
    assert "absent.jpg: " in said
    assert "other.jpg: usr/b.png: has (60, 40) pixels, which does not come to (7, 20)" in said
    assert sorted(file.name for file in (tmp_path / "out").rglob("*.jpg")) == ["b.jpg", "cat.jpg"]
    (tmp_path / "list.csv").write_text("file,width\na,b\n")
    with pytest.raises(TrainingDataError, match="is not a list of photographs"):
        read_list(tmp_path / "list.csv")


def test_the_list_of_those_trained_on_is_whole() -> None:
    """Each has a source and terms, and none is there twice."""
    rows = read_list(Path(__file__).parents[2] / "docs" / "research" / "training-pictures.csv")
    assert len({row.file for row in rows}) == len({(row.repository, row.path) for row in rows}) == len(rows)
    assert all(row.repository and row.commit and row.author and row.licence for row in rows)
