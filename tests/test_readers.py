"""Every layout that people have is told from its content and gives the same plain rows."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from layouts import RATE_HZ, TEXTS, audiofolder, emilia, encoded, folder_with_texts, libriheavy, nemo, sound, write_jsonl

from salad.corpus.rows import read_row
from salad.corpus.sources import open_source
from salad.recipe import Speech
from salad.types import SaladError


def rows_of(path, **settings):
    found, rows = open_source(Speech(path=path, **settings))
    return found, list(rows)


def heard(row):
    return read_row(row, RATE_HZ, max_s=60)


def test_libriheavy_is_lhotse_with_the_texts_of_its_books(tmp_path):
    found, rows = rows_of(libriheavy(tmp_path))
    assert found == "lhotse" and len(rows) == 12 and not any(row.problem for row in rows)
    assert rows[0].text == TEXTS[0] and rows[0].speaker == "100" and rows[1].offset_s == 2.5
    assert len({row.recording for row in rows}) == 3
    whole, _ = soundfile.read(rows[1].audio, dtype="float32")
    assert np.array_equal(heard(rows[1]), whole[40_000:72_000])


def test_emilia(tmp_path):
    found, rows = rows_of(emilia(tmp_path))
    assert found == "webdataset" and len(rows) == 9
    assert rows[4].id == "EN_B00000_S00001_W000001" and rows[4].recording == "EN_B00000_S00001"
    assert rows[4].language == "en" and rows[4].text.strip() == TEXTS[2]
    assert abs(len(heard(rows[4])) - 2 * RATE_HZ) < 200


def test_nemo(tmp_path):
    found, rows = rows_of(nemo(tmp_path))
    assert found == "nemo" and [row.text for row in rows] == list(TEXTS)
    assert len(heard(rows[0])) == 2 * RATE_HZ


@pytest.mark.parametrize("metadata", ["csv", "jsonl"])
def test_audiofolder(tmp_path, metadata):
    found, rows = rows_of(audiofolder(tmp_path, metadata=metadata))
    assert found == "table" and [row.text for row in rows] == list(TEXTS)
    assert len(heard(rows[0])) == 2 * RATE_HZ


def test_a_folder_of_audio_and_texts(tmp_path):
    found, rows = rows_of(folder_with_texts(tmp_path / "own"))
    assert found == "folder" and [row.text for row in rows] == list(TEXTS[:4])
