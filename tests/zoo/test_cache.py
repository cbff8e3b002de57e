"""The cache: what was kept comes back whole or not at all, and no fault of it reaches a result."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from secateur import zoo
from secateur.zoo import cache

from ..pictures import two_classes

KEY = {"source": {"hub": "x", "limit": None}, "files": [("a", 1, 2)]}
VALUES = {
    "train/x": np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2),
    "train/y": np.array([0, 1, 1, 0]),
    "train/columns/word": np.array(["ann", "", "bob", "ünï"]),
    "train/columns/good": np.array([True, False, True, True]),
    "test/x": np.zeros((0, 3, 2, 2), dtype=np.uint8),
    "names": ["cat", "dög", ""],
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check_whole(found):
    assert set(found) == set(VALUES)
    for name, value in VALUES.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value


def test_what_was_saved_comes_back(home):
    assert cache.load(KEY) is None
    cache.save(KEY, VALUES)
    check_whole(cache.load(KEY))
    assert cache.load(KEY | {"files": [("a", 1, 3)]}) is None
    (entry,) = (home / "images").iterdir()
    assert not list(home.rglob(".writing-*"))
    # in a shared cache it is the umask that says who may read
    umask = os.umask(0)
    os.umask(umask)
    assert entry.stat().st_mode & 0o777 == 0o777 & ~umask


def test_what_is_whole_is_not_taken_away_by_one_who_comes_late(home):
    cache.save(KEY, VALUES)
    (entry,) = (home / "images").iterdir()
    before = entry.stat().st_ino
    cache.save(KEY, VALUES)
    check_whole(cache.load(KEY))
    assert [one.stat().st_ino for one in (home / "images").iterdir()] == [before]


def test_where_it_lies(monkeypatch, tmp_path):
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SECATEUR_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "mine"
    monkeypatch.delenv("SECATEUR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg/secateur"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == tmp_path / ".cache/secateur"


# damage


def flipped(at):
    def damage(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[int(at * (len(data) - 1))] ^= 1
        file.write_bytes(data)

    return damage


def shortened(file):
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file):
    file.write_bytes(b"")


def swapped(file):
    """For another whole file of the same kind."""
    if file.suffix == ".npy":
        np.save(file, np.zeros((4, 3, 2, 2), dtype=np.uint8))
    else:
        file.write_text(json.dumps({"lists": {}, "arrays": {}}))


def noise(file):
    file.write_bytes(bytes(range(256)))


def unlinked(file):
    file.unlink()


def a_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = {
    "the first byte": flipped(0),
    "a byte of a header": flipped(0.3),
    "a byte in the middle": flipped(0.5),
    "the last byte": flipped(1),
    "cut": shortened,
    "empty": emptied,
    "another": swapped,
    "noise": noise,
    "missing": unlinked,
    "a folder": a_folder,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_not_there(damage, home):
    cache.save(KEY, VALUES)
    (entry,) = (home / "images").iterdir()
    names = sorted(file.name for file in entry.iterdir())
    assert names == ["0.npy", "1.npy", "2.npy", "3.npy", "4.npy", "told.json"]
    for name in names:
        damage(entry / name)
        assert cache.load(KEY) is None, name
        cache.save(KEY, VALUES)
        check_whole(cache.load(KEY))


@pytest.mark.parametrize("damage", [DAMAGES["the last byte"], DAMAGES["empty"]])
@pytest.mark.parametrize("file", ["0.npy", "told.json"])
def test_a_damaged_set_is_decoded_again(damage, file, home, tmp_path):
    two_classes(tmp_path)
    first = zoo.images(path=str(tmp_path))
    (entry,) = (home / "images").iterdir()
    damage(entry / file)
    again = zoo.images(path=str(tmp_path))
    np.testing.assert_array_equal(again.train[0], first.train[0])
    assert again.names == first.names
    # and mended
    assert cache.load({}) is None
    before = (entry / file).stat().st_mtime_ns
    zoo.images(path=str(tmp_path))
    assert (entry / file).stat().st_mtime_ns == before


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, at):
        self.at = at

    def __reduce__(self):
        return open, (self.at, "w")


def test_nothing_is_ever_unpickled(home, tmp_path):
    """Not even where the sums agree: they guard against accidents, not against a forger."""
    cache.save(KEY, VALUES)
    (entry,) = (home / "images").iterdir()
    held = io.BytesIO()
    np.save(held, np.array([Trap(str(tmp_path / "sprung"))], dtype=object), allow_pickle=True)
    (entry / "0.npy").write_bytes(held.getvalue())
    told = json.loads((entry / "told.json").read_text().partition("\n")[2])
    told["arrays"]["train/x"][1] = hashlib.sha256(held.getvalue()).hexdigest()
    words = json.dumps(told)
    (entry / "told.json").write_text(f"{hashlib.sha256(words.encode()).hexdigest()}\n{words}")
    assert cache.load(KEY) is None
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match="allow_pickle"):
        cache.save(KEY, {"objects": np.array([Trap("x")], dtype=object)})
    assert not list(home.rglob(".writing-*"))


# a folder that cannot be written


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/none"])
def test_where_nothing_can_be_written_one_sentence_says_so(where, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / where))
    assert cache.load(KEY) is None
    with pytest.warns(UserWarning, match="decoded images cannot be kept") as caught:
        cache.save(KEY, VALUES)
    (warned,) = caught
    assert str(tmp_path / where) in str(warned.message)
    assert "name another folder as SECATEUR_CACHE" in str(warned.message)
    assert "None" not in str(warned.message)
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_full_disk_is_told_and_leaves_nothing(home):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.warns(UserWarning, match=r"cannot be kept in .* \((?!None).+\), so the next start"):
            cache.save(KEY, {"x": np.zeros(100_000, dtype=np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((home / "images").iterdir()) == []
    assert cache.load(KEY) is None


# two at once

WRITER = f"""
import importlib.util, sys, time, warnings
import numpy as np
warnings.simplefilter("error")
spec = importlib.util.spec_from_file_location("cache", {cache.__file__!r})
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    x = np.full(100_000, number, dtype=np.uint8)
    cache.save({{"number": number}}, {{"x": x, "names": ["a"]}})
    assert (cache.load({{"number": number}})["x"] == number).all()
"""


def test_two_processes_that_write_at_once_leave_one_whole_entry(home):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", WRITER], **pipes) for _ in range(2)]
    try:
        for process in both:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in both:
            _, err = process.communicate(timeout=120)
            assert (process.returncode, err) == (0, "")
    finally:
        for process in both:
            process.kill()
    assert len(list((home / "images").iterdir())) == 60
    for number in range(60):
        assert (cache.load({"number": number})["x"] == number).all()
