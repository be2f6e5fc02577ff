"""The README followed word by word in an empty environment, and every extra of the wheel in one of its own.

Packages come from what is installed here, so nothing is downloaded: a folder of links holds exactly what the wheel's
metadata ask for. With ``UNJPEG_FROM_INDEX=1`` (``make test-install``) the README's commands fetch them from the index.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from jpegs import encoded, picture

ROOT = Path(__file__).parents[1]
FROM_INDEX = os.environ.get("UNJPEG_FROM_INDEX") == "1"

NEEDED_BY = {
    "cluster": "unjpeg.cluster",
    "evaluate": "unjpeg.evaluate.benchmark, unjpeg.evaluate.report",
    "onnxruntime": "unjpeg.runtimes.onnxruntime, onnxruntime",
    "train": "unjpeg.train.pipeline, unjpeg.train.export",
    "web": "unjpeg.web.app",
}
"""What an extra must be enough for. Others must be installable, and let the library be imported."""

TOO_LARGE = {"browser", "dev", "downstream"}
"""Extras that are tried by the tests that need them."""

with (ROOT / "pyproject.toml").open("rb") as project:
    EXTRAS = sorted(set(tomllib.load(project)["project"]["optional-dependencies"]) - TOO_LARGE)


def checked(command: list[str | Path], cwd: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def read_blocks(document: Path, language: str) -> str:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S)
    return "".join(found)


def link_packages(folder: Path, wanted: Iterable[str], own: list[str]) -> Path:
    """Links to the named packages, and to all that they need. Skips the test where one is not installed.

    Args:
        folder: where.
        wanted: requirements as in a wheel's metadata.
        own: what unjpeg itself requires.
    """
    requirements = pytest.importorskip("packaging.requirements")
    folder.mkdir()
    waiting, seen = [requirements.Requirement(text) for text in wanted], set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            if requirement.name == "unjpeg":
                needs = own
            else:
                try:
                    package = distribution(requirement.name)
                except PackageNotFoundError:
                    pytest.skip(f"{requirement.name} is not installed here")
                needs = package.requires or []
                for name in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
                    if not (folder / name).exists():
                        (folder / name).symlink_to(package.locate_file(name))  # type: ignore[arg-type]
            further = map(requirements.Requirement, needs)
            waiting += [one for one in further if one.marker is None or one.marker.evaluate({"extra": extra})]
    return folder


def name_environment(packages: Path | None, home: Path) -> dict[str, str]:
    """That of a shell which has never seen this program."""
    kept = ("LANG", "TMPDIR", "SSL_CERT_FILE", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "HTTPS_PROXY", "HTTP_PROXY")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "HOME": str(home)}
    if packages is not None:
        environment |= {"PYTHONPATH": str(packages), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    return environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    checked([*pip, "--wheel-dir", folder, ROOT], folder, dict(os.environ))
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_is_for(wheel: Path, requirements: list[str], extra: str, tmp_path: Path) -> None:
    """Installed by pip, which looks at each requirement; imported with nothing else in reach."""
    packages = link_packages(tmp_path / "packages", [f"unjpeg[{extra}]"], requirements)
    environment = name_environment(packages, tmp_path)
    pip = tmp_path / "pip"
    pip.mkdir()
    (pip / "pip").symlink_to(Path(pytest.importorskip("pip").__file__).parent)
    checked([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], tmp_path, environment)
    python = tmp_path / "empty/bin/python"
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", f"unjpeg[{extra}] @ {wheel.as_uri()}"]
    checked(install, tmp_path, environment | {"PYTHONPATH": f"{packages}:{pip}"})
    said = checked(
        [python, "-c", f"import {NEEDED_BY.get(extra, 'unjpeg.restorer')}, unjpeg; print(unjpeg.__file__)"],
        tmp_path,
        environment,
    )
    assert f"{tmp_path}/empty/" in said


@pytest.mark.slow
def test_the_readme_s_commands_do_what_they_say(requirements: list[str], tmp_path: Path) -> None:
    packages = None
    if not FROM_INDEX:
        packages = link_packages(tmp_path / "packages", ["unjpeg[web]", "hatchling"], requirements)
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "results", "tests", "studies", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    (checkout / "photo.jpg").write_bytes(encoded(picture(72, 104), quality=20))
    (checkout / "album/older").mkdir(parents=True)
    for name in ("one.jpg", "older/two.jpg"):
        (checkout / "album" / name).write_bytes(encoded(picture(40, 56), quality=30))
    commands = read_blocks(ROOT / "README.md", "sh").splitlines()
    (serving,) = [number for number, line in enumerate(commands) if line.startswith("unjpeg serve")]
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    # The one command that does not end by itself, at an address that is free.
    commands[serving] = f"unjpeg serve --port {port} & python -c '{ASKING.replace('PORT', str(port))}'; kill $!; wait"
    (checkout / "snippet.py").write_text(read_blocks(ROOT / "README.md", "python"), encoding="utf-8")
    script = "\n".join(["set -ex", *commands[:serving], "python snippet.py", commands[serving]])
    (checkout / "readme.sh").write_text(script, encoding="utf-8")
    said = checked(["bash", "readme.sh"], checkout, name_environment(packages, tmp_path))
    if FROM_INDEX:
        print(said)
    assert '"status"' in said
    assert f"{checkout}/.venv/" in checked(
        [".venv/bin/python", "-m", "site"], checkout, name_environment(packages, tmp_path)
    )
    written = {"photo.restored.png", "half.png", "quick.png", "smooth.png", "photo.png", "examples/kitten.restored.png"}
    written |= {"restored/one.png", "restored/older/two.png"}
    assert [name for name in sorted(written) if not (checkout / name).is_file()] == []


ASKING = """
import time, urllib.request
for _ in range(240):
    try:
        print(urllib.request.urlopen("http://127.0.0.1:PORT/api/health", timeout=5).read().decode())
        break
    except OSError:
        time.sleep(0.25)
""".strip()


def test_the_readme_is_short_and_says_nothing_of_before() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert "pip install unjpeg" not in text  # until it is published
