"""CMYK over HTTP: shown as RGB, and given back as a TIFF."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import unjpeg
from jpegs import decoded, opened, picture
from studies.inks import encode_cmyk, separate
from unjpeg.inks import show_inks

pytest.importorskip("fastapi", reason="needs the extra web")
from fastapi.testclient import TestClient

from unjpeg.web.app import create_app
from unjpeg.web.workers import ServerLimits

DATA = encode_cmyk(separate(picture(48, 72)), 40)


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> Iterator[TestClient]:
    app = create_app(str(tiny_model), limits=ServerLimits(seconds=300), threads=1)
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def as_tiff(restored: unjpeg.Restored) -> bytes:
    stream = io.BytesIO()
    restored.save(stream)
    return stream.getvalue()


def test_one_request_answers_with_a_tiff(client: TestClient, tiny_model: Path) -> None:
    response = client.post("/api/restore", content=DATA)
    assert response.content == as_tiff(unjpeg.restore(DATA, model=tiny_model))
    assert response.headers["content-type"] == "image/tiff"
    assert 'filename="restored.tif"' in response.headers["content-disposition"]
    refused = client.post("/api/restore?format=webp", content=DATA)
    assert refused.status_code == 422
    assert "webp holds no CMYK; choose tiff or jpeg" in refused.json()["error"]["message"]


def test_a_held_picture_is_shown_as_rgb(client: TestClient, tiny_model: Path) -> None:
    opening = client.post("/api/pictures", content=DATA).json()
    assert opening["inspection"]["colour_space"] == "CMYK"
    facts = json.dumps(opening["facts"])
    assert "CMYK, for printing." in facts
    assert "Not looked at" in facts
    address = f"/api/pictures/{opening['key']}"
    restored = unjpeg.restore(DATA, model=tiny_model)
    for view, inks in (("decoded", decoded(DATA)), ("restored", restored.pixels.astype(np.uint8))):
        np.testing.assert_array_equal(decoded(client.get(f"{address}/{view}").content), show_inks(inks, None))
    assert decoded(client.get(f"{address}/residual").content).shape == (48, 72, 3)
    assert client.get(f"{address}/check").json()["consistent"]
    assert client.get(f"{address}/file").content == as_tiff(restored)


def test_the_page_downloads_a_tiff_whatever_is_chosen(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("playwright", reason="needs the extra browser: make test-web")
    from browsing import downloaded, keep, upload

    page = request.getfixturevalue("page")
    (tmp_path / "inks.jpg").write_bytes(DATA)
    upload(page, tmp_path / "inks.jpg")
    keep(page, "desktop-inks")
    page.select_option("#kind", "format=webp")
    image = opened(downloaded(page, "#download"))
    assert (image.format, image.mode) == ("TIFF", "CMYK")
