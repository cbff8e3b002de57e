"""The store: whole entries or none, and no byte believed that was not written."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.errors import StoreError
from secateur.lab.store import SUMS, Store, digest

FILES = {"a.bin": b"some bytes", "b.json": b"{}"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_what_is_put_is_read(store):
    assert not store.has("steps", "k")
    store.put("steps", "k", FILES)
    assert store.has("steps", "k")
    assert not store.has("runs", "k")
    assert {name: store.read("steps", "k", name) for name in FILES} == FILES


def test_one_key_means_one_content(store):
    store.put("steps", "k", FILES)
    store.put("steps", "k", {"a.bin": b"other bytes"})
    assert store.read("steps", "k", "a.bin") == FILES["a.bin"]


def test_nothing_temporary_stays(store):
    store.ready()
    store.put("steps", "k", FILES)
    assert {p.name for p in store.root.rglob("*")} == {"steps", "k", SUMS, *FILES}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=64), place=st.integers(0, 10**6))
def test_every_flipped_bit_is_found_and_the_file_named(store, data, place):
    key = digest([data.hex(), place])
    store.put("outputs", key, {"x.bin": data})
    path = store.path("outputs", key) / "x.bin"
    at = place % (8 * len(data))
    path.write_bytes(bytes(b ^ (1 << at % 8) * (i == at // 8) for i, b in enumerate(data)))
    with pytest.raises(StoreError, match="not what was written") as caught:
        store.read("outputs", key, "x.bin")
    assert f'"{path}"' in str(caught.value)
    assert f'delete the folder "{path.parent}"' in str(caught.value)


@pytest.mark.parametrize("sums", [None, "", "{", "[]", "3", '{"a.bin": 3}', '{"other": "x"}'])
def test_damaged_checksums_are_found(store, sums):
    store.put("steps", "k", FILES)
    place = store.path("steps", "k") / SUMS
    place.unlink()
    if sums is not None:
        place.write_text(sums)
    with pytest.raises(StoreError, match=r'delete the folder ".*k" and run the plan again'):
        store.read("steps", "k", "a.bin")


def test_a_missing_file_is_found(store):
    store.put("steps", "k", FILES)
    (store.path("steps", "k") / "a.bin").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*a\.bin.*No such file"):
        store.read("steps", "k", "a.bin")


def test_an_entry_without_checksums_is_none_and_is_written_again(store):
    store.put("steps", "k", FILES)
    (store.path("steps", "k") / SUMS).unlink()
    assert not store.has("steps", "k")
    store.put("steps", "k", FILES)
    assert store.read("steps", "k", "a.bin") == FILES["a.bin"]


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"cannot write .*name another --store"):
            Store(root).ready()
        with pytest.raises(StoreError, match="cannot write"):
            Store(root).put("steps", "k", FILES)
    assert (tmp_path / "file").read_text() == "mine"


def test_many_may_write_the_same_entry_at_once(store):
    def work(number: int) -> None:
        for i in range(12):
            store.put("steps", f"k{i}", {"x": str(i).encode() * 1000})

    with ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(work, range(6)))) == 6
    assert [store.read("steps", f"k{i}", "x") for i in range(12)] == [
        str(i).encode() * 1000 for i in range(12)
    ]
    assert len(list((store.root / "steps").iterdir())) == 12


def test_leftovers_of_dead_processes_go_and_those_of_the_living_stay(store):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = platform.node()
    names = {
        f".writing-{host}-{dead.pid}-a_1": False,
        f".writing-{host}-{os.getpid()}-a_1": True,
        f".writing-not-{host}-{dead.pid}-a_1": True,
    }
    for name in names:
        (store.root / "steps" / name / "entry").mkdir(parents=True)
    store.ready()
    assert {name: (store.root / "steps" / name).exists() for name in names} == names


def test_folders_that_come_and_go_beside_the_shelves_do_no_harm(store):
    store.ready()
    done = threading.Event()

    def come_and_go():
        while not done.is_set():
            (store.root / "locks-of-another").mkdir()
            (store.root / "locks-of-another").rmdir()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come_and_go)
        try:
            for _ in range(1000):
                assert store.left() == []
        finally:
            done.set()
        other.result()


def test_a_writer_that_is_killed_leaves_no_entry(store):
    code = (
        "import sys; from pathlib import Path; from secateur.lab.store import Store\n"
        "Store(Path(sys.argv[1])).put('steps', 'k', {str(i): bytes(1 << 20) for i in range(400)})"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(store.root)])
    until = time.monotonic() + 60
    while not list(store.root.glob("steps/.writing-*/entry/3")) and time.monotonic() < until:
        time.sleep(0.001)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert list(store.root.glob("steps/.writing-*"))
    assert not store.has("steps", "k")
    store.ready()
    assert list(store.root.rglob("*")) == [store.root / "steps"]


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2, None]}) == digest(dict(reversed([("a", 1), ("b", [2, None])])))
    assert digest({"a": 1}) != digest({"a": 1.0}) != digest(json.dumps({"a": 1}).encode())
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))
