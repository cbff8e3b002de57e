"""Locks: one maker at a time, none that outlives its process, no two that wait for each other."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from secateur.errors import StoreError
from secateur.lab.locks import Locks, Maker
from secateur.lab.store import Store

HOLDER = """
import sys, time
from pathlib import Path
from secateur.lab.store import Store
with Store(Path(sys.argv[1])).making("steps", "k", "takes the step") as missing:
    print(missing, flush=True)
    sys.stdin.read()
"""
WAITER = """
import signal, sys
from pathlib import Path
from secateur.lab.store import Store
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as in a worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell runs what is behind it without
with Store(Path(sys.argv[1])).making("steps", "k", "takes the step") as missing:
    print(missing, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def process(store):
    """A Python process that gets the store's folder; it does not outlive the test."""
    started = []

    def start(code):
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", code, str(store.root)]
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        with one:
            pass


@pytest.fixture
def holder(process):
    holding = process(HOLDER)
    assert holding.stdout.readline() == "True\n"
    return holding


def test_what_is_there_is_not_made_and_leaves_no_lock(store):
    with store.making("steps", "k", "") as missing:
        assert missing
        (path,) = store.root.glob("locks/*")
        assert json.loads(path.read_text())[0] == os.getpid()
        store.put("steps", "k", {"x": b"1"})
    with store.making("steps", "k", "") as missing:
        assert not missing
    assert {path.name for path in store.root.iterdir()} == {"steps"}


def test_a_failure_leaves_no_lock(store):
    with pytest.raises(ValueError, match="mine"), store.making("steps", "k", ""):
        raise ValueError("mine")
    assert list(store.root.iterdir()) == []


def test_who_makes_an_entry_is_known_to_others(store, holder):
    maker = store.maker("steps", "k")
    assert maker == Maker(holder.pid, os.uname().nodename)
    assert str(maker) == f"process {holder.pid}"
    assert str(Maker(7, "elsewhere")) == "process 7 on elsewhere"
    assert str(Maker(0, "")) == "another process"
    assert store.maker("steps", "other") is None


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_process_that_waits_is_told_once_and_goes_on(store, holder, caplog, end):
    def later():
        time.sleep(1)
        if end == "killed":
            holder.send_signal(signal.SIGKILL)
        else:
            store.put("steps", "k", {"x": b"1"})
            holder.stdin.close()

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(later)
        with store.making("steps", "k", "takes the step") as missing:
            assert missing == (end == "killed")
        ended.result()
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"waiting for process {holder.pid}, which takes the step"]
    assert not list(store.root.glob("locks"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_waiting_can_be_interrupted(process, holder, store, stop):
    waiter = process(WAITER)
    assert waiter.stderr.readline().startswith(f"waiting for process {holder.pid}")
    begun = time.monotonic()
    waiter.send_signal(stop)
    assert waiter.wait(20) != 0
    assert time.monotonic() - begun < 5
    assert waiter.stdout.read() == ""
    assert store.maker("steps", "k") == Maker(holder.pid, os.uname().nodename)


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_is_not(store, holder):
    store.ready()
    assert store.maker("steps", "k")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert list(store.root.glob("locks/*"))
    assert store.maker("steps", "k") is None
    store.ready()
    assert list(store.root.iterdir()) == []


def test_many_that_come_and_go_are_never_two_at_once(tmp_path):
    inside, most, count = threading.Semaphore(1), 40, 0

    def work(number):
        nonlocal count
        for _ in range(most):
            with Locks(tmp_path).hold([f"k{number % 2}"] if number > 5 else ["k0", "k1"], order=0, what=""):
                if number <= 5:
                    assert inside.acquire(blocking=False), "two of them"
                    count += 1
                    inside.release()

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(work, range(8)))) == 8
    assert count == 6 * most
    assert list(tmp_path.iterdir()) == []


def test_several_are_asked_for_in_one_order_so_nobody_waits_for_each_other(store):
    def work(keys):
        for _ in range(60):
            with store.alone_with("steps", keys, ""):
                pass

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(work, [["a", "b", "c"], ["c", "b", "a"]], timeout=60))) == 2


def test_an_order_in_which_processes_could_wait_for_each_other_is_refused(store):
    with store.alone_with("runs", ["r"], ""), store.alone_with("outputs", ["o"], ""):
        with store.alone_with("outputs", ["o"], ""):  # held already
            pass
        for kind, key in (("runs", "other"), ("outputs", "another")):
            with pytest.raises(AssertionError, match="is asked for while"), store.alone_with(kind, [key], ""):
                pass
    assert not list(store.root.glob("locks"))


def test_on_a_disk_without_locks_nobody_waits(store, holder, monkeypatch):
    def flock(handle, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with store.making("steps", "k", "") as missing:
        assert missing
    assert store.maker("steps", "k") is None


def test_a_lock_that_cannot_be_written_is_one_sentence(store):
    store.root.mkdir()
    (store.root / "locks").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot write .*File exists"), store.making("steps", "k", ""):
        pass
