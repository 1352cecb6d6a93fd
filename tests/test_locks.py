"""One lock for all who hold something: runs, parts of a study, the cache of weights."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from salad.assets.store import building
from salad.locks import held
from salad.study.locks import alone


def in_a_thread(function):
    """A lock is held by an open file: another thread with its own is as foreign as another process."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def got(lock):
    with lock as found:
        return found


def test_what_another_process_has_is_taken_until_it_is_done(tmp_path):
    with held(tmp_path / "a.lock") as first:
        assert first == "ours" and in_a_thread(lambda: got(held(tmp_path / "a.lock", wait=False))) == "taken"
    assert got(held(tmp_path / "a.lock", wait=False)) == "ours"
    with alone(tmp_path, "cell") as mine:
        assert mine and not in_a_thread(lambda: got(alone(tmp_path, "cell", wait=False)))


def test_on_a_disk_without_locks_each_goes_on(monkeypatch, tmp_path, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    assert got(held(tmp_path / "a.lock")) == "no locks"
    assert got(alone(tmp_path, "cell", wait=False)) and "has no locks" in " ".join(capsys.readouterr().err.split())
    with building(tmp_path / "built", lambda: (tmp_path / "built").exists()) as scratch:
        (scratch / "files" / "x").touch()
    assert (tmp_path / "built" / "x").exists()


def test_a_lock_file_that_cannot_be_opened_is_raised(tmp_path):
    (tmp_path / "a.lock").mkdir()
    with pytest.raises(IsADirectoryError), held(tmp_path / "a.lock"):
        pass
