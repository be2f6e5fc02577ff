"""The built wheel, installed into an empty folder, restores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import unjpeg
from unjpeg import version
from unjpeg.modelfile import shipped_models

ROOT = Path(__file__).parents[1]


def checked(*command: str | Path, cwd: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    checked(*build, cwd=folder, environment=dict(os.environ))
    (file,) = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_what_it_must(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        description = archive.read(metadata).decode()
    assert wheel.name == f"unjpeg-{unjpeg.__version__}-py3-none-any.whl"
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "unjpeg").rglob("*.py")}
    weights = {f"unjpeg/weights/{path.name}" for path in shipped_models().values()}
    assert {*sources, *weights, "unjpeg/py.typed"} <= names
    assert not any(name.startswith(("tests", "examples", "src", "studies", "integrations")) for name in names)
    required = [line for line in description.splitlines() if line.startswith("Requires-Dist: ") and "extra" not in line]
    assert not any("torch" in line or "onnx" in line for line in required)


@pytest.mark.slow
def test_the_installed_wheel_restores(wheel: Path, tmp_path: Path, tiny_model: Path, kitten: Path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    checked(*pip, "--target", installed, wheel, cwd=elsewhere, environment=dict(os.environ))
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = checked(
        sys.executable, "-c", "import unjpeg; print(unjpeg.__file__)", cwd=elsewhere, environment=environment
    )
    assert Path(where.strip()).is_relative_to(installed)
    script = installed / "bin" / "unjpeg"
    assert checked(script, "--version", cwd=elsewhere, environment=environment) == f"unjpeg {unjpeg.__version__}\n"
    checked(script, "restore", kitten, "--model", tiny_model, "-o", "out.png", cwd=elsewhere, environment=environment)
    with Image.open(elsewhere / "out.png") as image:
        assert image.size == (720, 560)
    checked(script, "verify", kitten, "out.png", cwd=elsewhere, environment=environment)


def test_no_source_can_load_a_pickle() -> None:
    loaders = re.compile(r"\b(torch\.load|pickle\.loads?|joblib|dill|shelve|marshal|allow_pickle=True|weights_only)\b")
    found = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "src").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if loaders.search(line)
    ]
    assert found == []


def test_a_commit_is_marked_for_changed_code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "src/unjpeg/version.py"
    module.parent.mkdir(parents=True)
    for file in (module, tmp_path / "pyproject.toml", tmp_path / "results.json"):
        file.write_text("one")
    monkeypatch.setattr(version, "__file__", str(module))
    assert version.source_commit() is None  # no repository
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "One"]):
        checked(*git, *arguments, cwd=tmp_path, environment={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)})
    commit = version.source_commit()
    assert commit
    assert re.fullmatch("[0-9a-f]{12}", commit)
    (tmp_path / "results.json").write_text("two")
    assert version.source_commit() == commit
    module.write_text("two")
    assert version.source_commit() == f"{commit}-dirty"
    (tmp_path / "pyproject.toml").unlink()
    assert version.source_commit() is None
