"""What can be measured, by its name: models, programs, printed rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jpegs import decoded, encoded, picture

pytest.importorskip("skimage")

from unjpeg.errors import BadImageError, MeasurementError, SettingError
from unjpeg.evaluate import methods
from unjpeg.evaluate.method import shape_like
from unjpeg.evaluate.methods import Command, Decoder, Printed, UnjpegModel, find_method
from unjpeg.evaluate.pairs import decode
from unjpeg.restorer import ConsistencyPolicy, Restorer
from unjpeg.version import source_hash

COPY = (
    f"{sys.executable} -c 'import sys, PIL.Image; PIL.Image.open(sys.argv[1]).save(sys.argv[2])' {{input}} {{output}}"
)


def test_methods_are_found_by_name(tiny_model: Path) -> None:
    assert isinstance(find_method("jpeg"), Decoder)
    assert find_method(str(tiny_model)).name == "tiny"
    off = find_method(f"{tiny_model}@off")
    assert (off.name, off.spec) == ("tiny@off", f"{tiny_model}@off")
    assert off.identity != find_method(str(tiny_model)).identity
    both = find_method(f"{tiny_model}@off@tta")
    assert (both.name, both.spec) == ("tiny@off@tta", f"{tiny_model}@off@tta")
    assert find_method("default@tta").name == "default@tta"
    assert find_method("default").name == "default"
    printed = find_method("printed:QGAC")
    assert isinstance(printed, Printed)
    with pytest.raises(MeasurementError, match="cannot be run"):
        printed.restore(b"")
    for name in (
        "nothing",
        "nothing@tta",
        "printed:nothing",
        "tool {input} {output}",
        "x=tool {input}",
        "x=tool '{input} {output}",
    ):
        with pytest.raises(SettingError):
            find_method(name)


def test_our_model_is_measured_as_users_run_it(tiny_model: Path) -> None:
    file = encoded(picture(40, 48), quality=10)
    restorer = Restorer(tiny_model)
    policies: tuple[ConsistencyPolicy, ...] = ("strict", "off")
    made = [UnjpegModel(tiny_model, policy).restore(file) for policy in policies]
    for pixels, policy in zip(made, policies, strict=True):
        assert np.array_equal(pixels, restorer.restore(file, consistency=policy).pixels)
    assert not np.array_equal(made[0], made[1])
    ensemble = UnjpegModel(tiny_model, tta=True)
    assert np.array_equal(ensemble.restore(file), restorer.restore(file, tta=True).pixels)
    assert len({ensemble.identity, UnjpegModel(tiny_model).identity, UnjpegModel(tiny_model, "off").identity}) == 3


def test_our_model_is_measured_at_both_precisions(rounded_model: Path) -> None:
    file = encoded(picture(40, 48), quality=10)
    for precision in ("full", "int8"):
        method = find_method(f"{rounded_model}@off@{precision}@tta")
        assert method.spec == f"{rounded_model}@off@{precision}@tta"
        assert method.identity.endswith(f" off {precision} tta")
        expected = Restorer(rounded_model, precision=precision).restore(file, consistency="off", tta=True)
        assert np.array_equal(method.restore(file), expected.pixels)
    for clash in ("full@int8", "off@strict", "tta@tta"):
        with pytest.raises(SettingError, match="do not go together"):
            find_method(f"{rounded_model}@{clash}")


def test_any_command_takes_part(tmp_path: Path) -> None:
    file = encoded(picture(24, 32), quality=30)
    copy = find_method(f"copy={COPY}")
    assert copy.name == "copy"
    assert np.array_equal(copy.restore(file), decoded(file))
    piped = find_method("piped=cat {input} | cat > {output.jpg}")
    assert np.array_equal(piped.restore(file), decode(file))
    with pytest.raises(MeasurementError, match="failed with code 3 no luck"):
        Command("broken", "sh -c 'echo no luck >&2; exit 3' {input} {output}").restore(file)
    with pytest.raises(MeasurementError, match=r"wrote no out\.png"):
        Command("idle", "true {input} {output}").restore(file)
    with pytest.raises(BadImageError):
        Command("text", "echo nonsense > {output} < {input}").restore(file)


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "COMMAND_SECONDS", 0.2)
    with pytest.raises(MeasurementError, match=r"took more than 0\.2 seconds"):
        Command("slow", "sleep 60 | sleep 60; : {input} {output}").restore(encoded(picture(8, 8)))


def test_programs_that_are_not_installed_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for name in methods.PROGRAMS:
        with pytest.raises(MeasurementError, match=f"{name}: not installed"):
            find_method(name)


def test_another_version_of_a_program_is_another_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "tool"
    identities = []
    for version in ("1", "2"):
        program.write_text(f"#!/bin/sh\n# {version}\n")
        program.chmod(0o755)
        identities.append(Command("tool", "tool {input} {output}").identity)
    assert identities[0] != identities[1]


def test_a_command_s_identity_is_of_every_file_that_it_names(tmp_path: Path) -> None:
    script, weights = tmp_path / "tool.py", tmp_path / "weights.bin"
    identities = set()
    for code, values in (("1", "1"), ("2", "1"), ("2", "2")):
        script.write_text(code)
        weights.write_text(values)
        command = f"(cd / && python3 {script} --weights={weights} {{input}} {{output}})"
        identities |= {Command("tool", command).identity, Command("tool", command).identity}
    assert len(identities) == 3


def test_what_only_the_shell_understands_takes_part(tmp_path: Path) -> None:
    file = encoded(picture(24, 32), quality=30)
    for line in (
        "cd / && cp {input} {output}",
        "X=1 cp {input} {output}",
        "(cp {input} {output})",
        "{ cp {input} {output}; }",
    ):
        assert np.array_equal(Command("shell", line).restore(file), decode(file))
    with pytest.raises(MeasurementError, match=r"not installed \(no-such-tool is not on the PATH\)"):
        Command("none", "no-such-tool {input} {output}")


def test_what_an_older_program_has_measured_is_not_this_one_s(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = UnjpegModel(tiny_model).identity
    assert UnjpegModel(tiny_model).identity == now
    assert source_hash(*methods.RESTORING) in now
    monkeypatch.setattr(methods, "source_hash", lambda *_: "another")
    assert UnjpegModel(tiny_model).identity != now


def test_source_hashes_are_of_what_the_modules_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evaluate").mkdir()
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    hashes = []
    for text in ("1", "2", "1"):
        (tmp_path / "evaluate" / "metrics.py").write_text(text)
        hashes.append(source_hash("evaluate.metrics"))
    (tmp_path / "evaluate" / "metrics.npz").write_bytes(b"numbers that it computes with")
    hashes.append(source_hash("evaluate.metrics"))
    assert hashes[0] == hashes[2] != hashes[1]
    assert hashes[3] not in hashes[:3]


def test_every_module_that_decides_pixels_is_known(child_environment: dict[str, str]) -> None:
    script = "import sys, unjpeg.restorer; print(*(name for name in sys.modules if name.startswith('unjpeg.')))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=child_environment
    )
    loaded = {name.removeprefix("unjpeg.") for name in ran.stdout.split()}
    writing = {name for name in loaded if name.partition(".")[0] == "output"} | {"files"}
    later = {"runtimes.openvino", "runtimes.rewrite"}  # imported when the model is compiled
    aside = {"errors", "metadata", "version"}
    assert loaded - aside - writing == set(methods.RESTORING) - later


def test_results_take_their_original_s_shape() -> None:
    grey, colour = picture(8, 9)[..., 0], picture(8, 9)
    assert np.array_equal(shape_like(grey, colour), np.dstack([grey] * 3))
    assert np.array_equal(shape_like(np.dstack([grey] * 3), grey), grey)
    with pytest.raises(MeasurementError, match="made 9x8 pixels of 8x9"):
        shape_like(picture(8, 9), picture(9, 8))
