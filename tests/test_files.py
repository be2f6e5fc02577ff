"""What is one file: names that differ in case, links, mounts, inode numbers that say nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jpegs import encoded, picture
from unjpeg.batch import Job, plan
from unjpeg.errors import OutputError
from unjpeg.files import ignores_case, is_same_file, make_file_key

JPEG = encoded(picture(16, 24))


@pytest.fixture
def by_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as exFAT by FUSE shows it: every spelling of a name is there, with an inode number of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    real = {"stat": os.stat, "lstat": os.lstat}

    def spelled(path: Any) -> Any:
        """The name that the disk lists."""
        parts = Path(os.fspath(path)).parts
        if not isinstance(path, str | os.PathLike) or Path(*parts[: len(disk.parts)]) != disk:
            return path
        here = disk
        for part in parts[len(disk.parts) :]:
            names = os.listdir(here) if os.path.isdir(str(here)) else []
            here = here / next((name for name in names if name.lower() == part.lower()), part)
        return here

    def faked(name: str) -> Any:
        def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
            if isinstance(path, int) or options.get("dir_fd") is not None:
                return real[name](path, *args, **options)
            found = list(real[name](path if str(path) == str(disk) else spelled_once(path), *args, **options))
            if str(path).startswith(f"{disk}{os.sep}"):
                found[1] = hash(str(path)) & 0xFFFFFF
            return os.stat_result(found)

        return stat

    inside = False

    def spelled_once(path: Any) -> Any:
        nonlocal inside
        if inside:  # os.path.isdir above asks here, too
            return path
        inside = True
        try:
            return spelled(path)
        finally:
            inside = False

    for name in real:
        monkeypatch.setattr(os, name, faked(name))
    return disk


def put(*paths: Path, data: bytes = JPEG) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_the_fake_is_what_it_says(by_fuse: Path) -> None:
    put(by_fuse / "IMG_1.JPG")
    assert os.path.exists(by_fuse / "img_1.jpg")
    assert not os.path.samefile(by_fuse / "img_1.jpg", by_fuse / "IMG_1.JPG")


@pytest.mark.parametrize("name", ["IMG_1.JPG", "Photo.JpG", "holiday.jpg", "1.JPG"])
def test_an_input_in_another_spelling_is_no_output(by_fuse: Path, name: str) -> None:
    put(by_fuse / "DCIM" / name)
    assert ignores_case(str(by_fuse / "DCIM"))
    for output in (by_fuse / "DCIM", by_fuse / "dcim"):
        todo = plan([str(by_fuse / "DCIM")], str(output), "jpeg", recursive=True)
        refused = [str(error) for _, error in todo.failures if "is an input itself" in str(error)]
        for job in todo.jobs:  # what the plan lets pass, the job's own check does not
            with pytest.raises(OutputError, match="the input itself"):
                job.check(overwrite=True)
        assert refused or todo.jobs
    one = Job(str(by_fuse / "DCIM" / name), by_fuse / "DCIM" / name.swapcase(), "jpeg")
    with pytest.raises(OutputError, match="the input itself"):
        one.check(overwrite=True)


def test_what_lies_in_the_output_folder_is_no_input_in_any_spelling(by_fuse: Path) -> None:
    put(by_fuse / "a.jpg", by_fuse / "OUT" / "old.png")
    todo = plan([str(by_fuse)], str(by_fuse / "out"), None, recursive=True)
    assert [Path(job.source).name for job in todo.jobs] == ["a.jpg"]


def test_a_folder_that_tells_cases_apart_has_two_files(tmp_path: Path) -> None:
    put(tmp_path / "photo.jpg", tmp_path / "other" / "x.jpg")
    put(tmp_path / "Photo.jpg", data=encoded(picture(16, 24, 1)))
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system ignores case")
    assert ignores_case(str(tmp_path)) is False
    assert ignores_case(str(tmp_path / "not" / "there")) is False
    assert not is_same_file(tmp_path / "photo.jpg", tmp_path / "Photo.jpg")
    assert make_file_key(tmp_path / "photo.jpg") != make_file_key(tmp_path / "Photo.jpg")
    (tmp_path / "Photo.jpg").write_bytes(JPEG)  # equal content under such a name: rather one too many
    assert is_same_file(tmp_path / "photo.jpg", tmp_path / "Photo.jpg")
    assert not is_same_file(tmp_path / "photo.jpg", tmp_path / "missing.jpg")


def test_where_it_cannot_be_told_names_that_differ_in_case_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0"
    put(folder / "1.2", folder / "3.4")
    assert ignores_case(str(folder)) is None
    assert make_file_key(folder / "a.jpg") == make_file_key(folder / "A.jpg")
    composed, apart = (unicodedata.normalize(form, "Grüße") for form in ("NFC", "NFD"))
    assert make_file_key(folder / composed) == make_file_key(folder / apart)


def test_another_input_by_a_link_is_no_output(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.jpg")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "in" / "b.jpg", tmp_path / "out" / "a.jpg")
    (tmp_path / "out" / "b.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    todo = plan([str(tmp_path / "in")], str(tmp_path / "out"), "jpeg", recursive=False)
    assert not todo.jobs
    assert all("is an input itself" in str(error) for _, error in todo.failures)


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A real one, by FUSE, where this machine allows it."""
    needed = ("mkfs.exfat", "mount.exfat-fuse", "losetup", "umount")
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, needed)):
        pytest.skip("needs root, loop devices, exfat-fuse and exfatprogs")
    image, mount = tmp_path / "disk.img", tmp_path / "card"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(2**25)

    def run(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    device = None
    try:
        run("mkfs.exfat", str(image))
        device = run("losetup", "-f", "--show", str(image))
        run("mount.exfat-fuse", device, str(mount))
    except (OSError, subprocess.CalledProcessError) as error:
        if device:
            run("losetup", "-d", device)
        pytest.skip(f"nothing can be mounted here ({error})")
    try:
        yield mount
    finally:
        with suppress(subprocess.CalledProcessError):
            run("umount", str(mount))
            run("losetup", "-d", device)


@pytest.mark.slow
def test_a_camera_s_card_keeps_its_pictures(exfat: Path, tiny_model: Path, child_environment: dict[str, str]) -> None:
    put(exfat / "DCIM" / "IMG_1.JPG", exfat / "DCIM" / "IMG_2.JPG")
    assert os.stat(exfat / "DCIM" / "IMG_1.JPG").st_ino != os.stat(exfat / "DCIM" / "img_1.jpg").st_ino
    for arguments in (
        ["DCIM", "-o", "DCIM", "--format", "jpeg"],
        ["DCIM", "-o", "dcim", "--format", "jpeg"],
        ["DCIM/IMG_1.JPG", "-o", "DCIM/img_1.jpg"],
        ["dcim/img_1.jpg", "-o", "DCIM/IMG_1.JPG"],
    ):
        command = [sys.executable, "-m", "unjpeg", "restore", *arguments, "--overwrite", "--model", str(tiny_model)]
        ran = subprocess.run(command, cwd=exfat, env=child_environment, capture_output=True, text=True)
        assert ran.returncode == 1
        assert "input itself" in ran.stderr
        assert [path.read_bytes() for path in sorted((exfat / "DCIM").iterdir())] == [JPEG, JPEG]
