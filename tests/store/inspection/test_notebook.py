"""What a notebook shows: thumbnails of good rows, a word for others, every name escaped, no script."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import store
from tests.train.builders import build_cache
from tests.train.codes import build_coded


def pictures(html: str) -> list[np.ndarray]:
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in data]


def test_pixels_and_the_grid_of_every_teacher_are_drawn(tmp_path: Path) -> None:
    faces = build_coded(tmp_path / "cache", {"alpha": 16.0})["faces"]  # of which a part of the patches is stored
    html = faces[2:4]._repr_html_()
    drawn = pictures(html)
    assert [picture.shape for picture in drawn] == [(56, 56, 3)] * 2 + [(4, 4, 3)] * 4
    np.testing.assert_array_equal(drawn[0], faces[2]["pixels"])
    stored = faces.stored_tokens("alpha", [2])
    assert stored is not None
    black = (drawn[2].reshape(16, 3) == 0).all(axis=1)
    assert set(np.flatnonzero(~black)) <= set(stored[0].tolist())
    whole = faces._repr_html_()
    assert len(pictures(whole)) == 6 * 3
    for text in ("10 rows", "float16 17 x 24", "codes, 16x", "10 ok", "6 of 10 rows"):
        assert text in whole


def test_rows_that_failed_or_were_not_made_have_a_word(tmp_path: Path) -> None:
    cache = build_cache(tmp_path / "sealed", failed={("faces", "alpha"): [1]})
    html = cache["faces"][:3]._repr_html_()
    assert len(pictures(html)) == 3 + 2 + 3
    assert ">failed</span>" in html
    assert "1 failed" in cache["faces"]._repr_html_()
    for status in (tmp_path / "sealed/features.zarr/faces").glob("**/*status*/c.0"):
        status.unlink()
    unsealed = store.open(tmp_path / "sealed")["faces"]
    assert "not sealed: 3 of 3 shards" in unsealed._repr_html_()
    (tmp_path / "sealed/features.zarr/faces/alpha/tokens/c.0.0.0").unlink()
    html = store.open(tmp_path / "sealed")["faces"]._repr_html_()
    assert "not sealed: 2 of 3 shards" in html
    assert ">missing</span>" in html


def test_damaged_shards_do_not_end_a_notebooks_cell(tmp_path: Path) -> None:
    faces = build_cache(tmp_path / "cache")["faces"]
    shard = tmp_path / "cache/features.zarr/faces/pixels/c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    html = faces[:2]._repr_html_()
    assert "cannot be read" in html
    assert "checksum of row 0" in html


def test_names_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = build_cache(tmp_path / "cache")["faces"]
    faces.group = "<script>alert('group')</script>"
    faces.name = "<img src=x onerror=alert(1)>"
    monkeypatch.setattr(type(faces), "teachers", ("<b>alpha</b>",))
    html = faces._repr_html_() + faces[:2]._repr_html_()
    for raw in ("<script", "<img src=x", "<b>alpha"):
        assert raw not in html
    assert "&lt;script&gt;" in html
