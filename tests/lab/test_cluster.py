"""Grids on Ray: the same records as here, whatever dies or fails; nothing runs when they have ended."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from secateur.errors import NotFinite, StoreError
from secateur.lab import Store, expand, run_grid
from secateur.lab.cluster import Cluster
from secateur.lab.execute import Lab
from secateur.lab.tasks import Task

from .conftest import OUTSIDE
from .test_execute import tensors, told
from .test_jobs import events

slow = pytest.mark.slow  # starts Ray
STOPPED = (130, "stopped; what was finished is in the store")


@pytest.fixture
def marked(monkeypatch):
    """The processes below this test, by a word in their environment that Ray hands on."""
    word = f"SECATEUR_TEST={uuid.uuid4().hex}"
    monkeypatch.setenv(*word.split("="))

    def alive():
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if word.encode() in (folder / "environ").read_bytes() and folder.name != str(os.getpid()):
                    found.add((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
            except OSError:
                continue
        return found

    return alive


def until(true, seconds=30):
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    assert true()


@slow
@pytest.mark.usefixtures("one_ray")
def test_a_grid_on_ray_leaves_what_a_grid_here_leaves_and_no_process(tiny, store, marked, capfd):
    tiny["step"].insert(1, {"use": "magnitude", "as": "prune", "sparsity": 0.0})
    tiny["audit"] = [{"use": "accuracy"}, {"use": "retrain-gap", "references": 1}]
    tiny["grid"] = {
        "prune.sparsity": [0.0, 0.5],
        "unlearn": [{"use": "fine-tune", "epochs": 1}, {"use": "retrain", "epochs": 1}],
    }
    plans = expand(tiny)
    before = signal.getsignal(signal.SIGTERM)
    ray = run_grid(plans, store, engine="ray", jobs=2)
    here = run_grid(plans, store.with_name("other"))
    assert not ray.failures
    assert [told(record) for record in ray.records] == [told(record) for record in here.records]
    assert tensors(store) == tensors(store.with_name("other"))
    assert sorted(ray.taken) == sorted(here.taken)  # nothing twice: both sparsities share one training
    assert ray.taken.count("train") == 1
    assert signal.getsignal(signal.SIGTERM) is before
    until(lambda: not marked())
    assert capfd.readouterr() == ("", "")
    assert not list(store.glob(".seen-*"))


@slow
@pytest.mark.usefixtures("one_ray")
def test_an_actor_that_is_killed_is_replaced_and_what_fails_is_collected(tiny, store, outside, capfd):
    (outside / "words").write_text("once")
    tiny["step"].insert(1, {"use": "outside:Deadly", "path": str(outside / "words")})
    tiny["grid"] = {"train.lr": [0.1, 1e30], "unlearn.epochs": [1, 2]}
    ray = run_grid(expand(tiny), store, engine="ray", jobs=2)
    here = run_grid(expand(tiny), store.with_name("other"))  # no word is left: nothing dies
    (died,) = [event for event in events(store) if event["event"] == "died"]
    assert (died["label"], died["why"]) == (
        "Deadly",
        "The actor is dead because its worker process has died",
    )
    assert len(ray.records) == 2
    assert [told(record) for record in ray.records] == [told(record) for record in here.records]
    assert tensors(store) == tensors(store.with_name("other"))
    assert [number for number, _ in ray.failures] == [3, 4]
    (_, third), (_, fourth) = ray.failures
    assert isinstance(third, NotFinite)
    assert third is fourth
    assert third.__notes__ == ['in the step "train"']
    assert capfd.readouterr() == ("", "")  # Ray tells of a death on standard output


@slow
@pytest.mark.usefixtures("one_ray")
def test_a_node_that_does_not_see_the_store_ends_the_grid(tiny, store):
    lab = Lab(Store(store))
    lab.store.ready()
    with Cluster(expand(tiny), lab, 1) as place:
        (seen,) = store.glob(".seen-*")
        seen.rename(store / "elsewhere")
        with pytest.raises(StoreError, match=f'to see "{store}" as the grid does'):
            place.submit(Task(key="run 1", label="judge", run=1)).result()
        (store / "elsewhere").rename(seen)


@slow
@pytest.mark.usefixtures("one_ray")
@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice", "SIGTERM"])
def test_ctrl_c_and_sigterm_stop_ray_too(command, tmp_path, text, marked, how):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    (tmp_path / "workers").mkdir()
    slow_step = f'{{ use = "outside:Slow", path = "{tmp_path / "workers"}" }}'
    (tmp_path / "plan.toml").write_text(text + f"[grid]\nunlearn = [{slow_step}]\nseed = [0, 1]\n")
    process = command("grid", "plan.toml", "--engine", "ray", "--jobs", "2", cwd=tmp_path)
    actors = lambda: [Path("/proc", one.name) for one in (tmp_path / "workers").iterdir()]  # noqa: E731
    until(lambda: len(actors()) == 2 or process.poll() is not None, 200)
    process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
    if how == "Ctrl-C twice":
        until(lambda: not all(actor.exists() for actor in actors()))  # the first has been heard
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    code, said = (143, "ended as asked; what was done is kept") if how == "SIGTERM" else STOPPED
    assert (process.returncode, out) == (code, ""), err
    assert "Traceback" not in err
    assert err.endswith(f"secateur: {said}, and the same command goes on from there\n")
    assert err.count("secateur:") == 1
    assert len(list(tmp_path.glob(".secateur/steps/*"))) == 2  # the trainings
    until(lambda: not marked(), 180)


@slow
@pytest.mark.usefixtures("one_ray")
def test_a_cluster_is_joined_and_left_running(command, tmp_path, text, marked, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    # "ray start" takes the token that is there without being told; "ray status" and joining do not
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=100000000", "--block"]
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        open(tmp_path / "head.txt", "w") as printed,
    ):
        asked += [f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        head = subprocess.Popen(
            [*ray, "start", "--head", *asked],
            env=quiet,
            cwd="/",
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        try:
            address = f"127.0.0.1:{port}"
            status = [*ray, "status", "--address", address]

            def answers():
                assert head.poll() is None, (tmp_path / "head.txt").read_text()
                asked = subprocess.run(
                    status, env=os.environ | {"RAY_AUTH_MODE": "token"}, capture_output=True, check=False
                )
                return asked.returncode == 0

            until(answers, 150)
            (tmp_path / "outside.py").write_text(OUTSIDE.replace("time.sleep(300)", ""))
            (tmp_path / "workers").mkdir()
            slow_step = f'{{ use = "outside:Slow", path = "{tmp_path / "workers"}" }}'
            (tmp_path / "plan.toml").write_text(text + f"[grid]\nunlearn = [{slow_step}]\nseed = [0, 1]\n")
            words = ("grid", "plan.toml", "--engine", "ray", "--ray-address", address)
            with monkeypatch.context() as stranger:
                stranger.setenv("RAY_AUTH_TOKEN", "b" * 64)
                refused = command(*words, cwd=tmp_path)
            out, err = refused.communicate(timeout=200)
            assert (refused.returncode, out) == (2, ""), err
            assert "it asks for a token, and here is another or none: set RAY_AUTH_TOKEN" in err
            crowded = command(*words, "--jobs", "3", cwd=tmp_path)
            out, err = crowded.communicate(timeout=400)
            assert (crowded.returncode, out) == (2, ""), err
            assert err.count("\n") == 1
            assert "expected room for 3 jobs of 1 CPU each" in err
            assert "got room for 2" in err
            joined = command(*words, "--jobs", "2", "--json", cwd=tmp_path)
            out, err = joined.communicate(timeout=400)
            assert joined.returncode == 0, err
            assert out.startswith("[")
            assert 'done "judge" of run 2 of 2' in err
            assert head.poll() is None
            assert answers()
            assert any("raylet" in line for line in marked())
        finally:
            head.terminate()
            head.wait(60)
        until(lambda: not marked(), 180)


# --- what is refused, in one sentence ---


@pytest.fixture
def asked(cli, tmp_path, text, monkeypatch):
    """A grid by the command line that must be refused before anything is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(text)

    def ask(*words):
        ran = cli("grid", "plan.toml", *words)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
        assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]
        return ran.err

    return ask


def test_an_address_that_nothing_answers_at(asked):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        begun = time.monotonic()
        err = asked("--engine", "ray", "--ray-address", address)
    assert time.monotonic() - begun < 10
    assert f'expected a Ray cluster at "{address}", got none (Connection refused): see that it runs' in err


@slow
@pytest.mark.usefixtures("one_ray")
def test_an_address_where_something_else_answers(asked):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        err = asked("--engine", "ray", "--ray-address", f"127.0.0.1:{other.getsockname()[1]}")
    assert "got none (something takes connections there, and did not say within 20 s that it is Ray)" in err


@pytest.mark.parametrize("address", ["auto", "host", "ray://host:1", "host:", "host:99999", ":6379"])
def test_an_address_that_is_none(asked, address):
    assert re.search("expected --ray-address as HOST:PORT|got none", asked(*ON_RAY, address))


ON_RAY = ("--engine", "ray", "--ray-address")


def test_an_address_without_ray_is_refused(asked):
    assert 'expected no address for the engine "local"' in asked("--ray-address", "host:6379")


def test_without_ray_it_says_what_to_install(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python itself notes a module that is not there
    assert 'not installed: run pip install "secateur[ray]"' in asked("--engine", "ray")
