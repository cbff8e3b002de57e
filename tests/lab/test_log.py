"""The log of a grid, and what ``secateur status`` reads from it."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from secateur.errors import StoreError
from secateur.lab import expand, load, run_grid, status
from secateur.lab.log import Log, changed
from secateur.lab.review import all_runs
from secateur.lab.store import SUMS

from .test_execute import tensors, told


@pytest.fixture
def begun(tmp_path):
    """Write the log of a grid that has begun, and not ended."""

    def write(plan="plan.toml", pid=None, host=None, number=1, **about):
        log = Log(tmp_path)
        log.path = tmp_path / "logs" / f"{number}.jsonl"
        log("start", plan=plan, pid=pid or os.getpid(), host=host or platform.node(), runs=4, **about)
        log("began", key="a", label="train", run=1)
        log("done", key="a", label="train", run=1)
        log("began", key="b", label="unlearn", run=1)
        log("done", key="b", label="unlearn", run=1)
        log("began", key="run 1", label="judge", run=1)
        log("done", key="run 1", label="judge", run=1)
        log("began", key="c", label="train", run=2)
        log("failed", key="c", label="train", run=2, error="expected a finite loss")
        log("began", key="d", label="train", run=3)
        return log

    return write


@pytest.fixture(scope="module")
def gone():
    """The number of a process that is no more."""
    return int(
        subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout
    )


def test_a_grid_logs_what_it_does(tiny, tmp_path):
    tiny["grid"] = {"train.lr": [0.1, 1e30]}
    heard = []
    run_grid(expand(tiny), tmp_path, hear=heard.append, source="my.toml")
    (path,) = tmp_path.glob("logs/*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == heard
    assert [(line["event"], line.get("label"), line.get("run")) for line in lines] == [
        ("start", None, None),
        ("began", "train", 1), ("done", "train", 1),
        ("began", "unlearn", 1), ("done", "unlearn", 1),
        ("began", "judge", 1), ("done", "judge", 1),
        ("began", "train", 2), ("failed", "train", 2),
        ("end", None, None),
    ]  # fmt: skip
    assert (lines[0]["plan"], lines[0]["pid"], lines[0]["runs"]) == ("my.toml", os.getpid(), 2)
    assert lines[-2]["error"].startswith("expected a finite loss")
    moments = [datetime.fromisoformat(line["time"]) for line in lines]
    assert moments == sorted(moments)
    assert datetime.now(UTC) - moments[-1] < timedelta(minutes=5)
    assert status(tmp_path) == []


def test_a_grid_that_runs_is_told(begun, tmp_path):
    assert status(tmp_path) == []
    log = begun()
    with log.path.open("a") as file:
        file.write('{"event": "beg')  # killed while it wrote, or writing now
    (told,) = status(tmp_path)
    assert (told.plan, told.pid, told.alive) == ("plan.toml", os.getpid(), True)
    assert (told.runs, told.done, told.failed) == (4, 1, 1)
    (step,) = told.running
    assert (step.label, step.run) == ("train", 3)
    assert 0 <= step.seconds < 60


def test_a_killed_grid_is_told_until_its_plan_runs_again(begun, tmp_path, gone):
    begun(pid=gone, number=1)
    begun(plan="other.toml", host="elsewhere", pid=gone, number=2)
    dead, elsewhere = status(tmp_path)
    assert (dead.alive, dead.running) == (False, ())
    assert (elsewhere.alive, elsewhere.host) == (None, "elsewhere")
    begun(number=3)("end", why="finished")
    assert [one.plan for one in status(tmp_path)] == ["other.toml"]


def test_a_grid_of_another_host_is_told_until_its_plan_runs_again_and_when_it_is_heard_of(begun, tmp_path):
    """A scheduler that takes a machine away, and starts the job again on another."""
    first = begun(host="elsewhere", number=1)
    time.sleep(0.01)  # the log counts in milliseconds
    begun(number=2)
    (here,) = status(tmp_path)
    assert here.alive is True
    time.sleep(0.01)
    first("done", key="d", label="train", run=3)  # it was not taken away: both run
    assert [one.alive for one in status(tmp_path)] == [None, True]
    first("end", why="SystemExit")
    assert [one.alive for one in status(tmp_path)] == [True]


def test_a_plan_is_the_same_however_its_path_is_written(begun, tmp_path, gone, monkeypatch):
    plans = tmp_path / "plans"
    (plans / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(plans)
    monkeypatch.chdir(plans)
    begun(plan="plan.toml", pid=gone, content="old")
    was = {"since": status(tmp_path)[0].since, "runs": 4, "done": 1, "host": None}
    assert changed(tmp_path, "plan.toml", "old") is None
    monkeypatch.chdir(tmp_path)
    for path in (plans / "plan.toml", "plans/plan.toml", "plans/deep/../plan.toml", "link/plan.toml"):
        assert changed(tmp_path, str(path), "new") == was
        assert changed(tmp_path, str(path), "old") is None
    assert changed(tmp_path, "plan.toml", "new") is None, "a file of that name in another folder"
    begun(plan="link/plan.toml", number=2)("end", why="finished")
    assert status(tmp_path) == []


def test_of_a_plan_that_was_changed_under_a_grid(begun, tmp_path, gone):
    assert changed(tmp_path, "plan.toml", "new") is None
    begun(content="old", number=1)  # runs
    assert changed(tmp_path, "plan.toml", "new") is None
    begun(content="old", host="elsewhere", number=2)
    assert changed(tmp_path, "plan.toml", "new")["host"] == "elsewhere"
    begun(content="old", host="elsewhere", number=3)("end", why="SystemExit")  # as when asked by SIGTERM
    assert changed(tmp_path, "plan.toml", "new")["host"] is None
    begun(pid=gone, number=4)  # by a version that told no content
    assert changed(tmp_path, "plan.toml", "new") is None
    begun(content="old", number=5)("end", why="finished")
    assert changed(tmp_path, "plan.toml", "new") is None


def test_a_grid_that_nobody_saw_end_is_told_by_its_host(begun, cli, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(text)
    begun(content="old", host="node7")
    told = cli("grid", tmp_path / "plan.toml", "--store", tmp_path)
    assert told.code == 0
    assert re.fullmatch(
        r"secateur: \S+/plan.toml or its --set has changed since [-0-9]+T[:0-9]+Z, when a grid of it began "
        "that was not seen to end on node7, and may run there still, after 1 of 4 runs: what that finished "
        "is kept, steps in common are not taken again, and the old plan can still be finished\n",
        told.err,
    )
    assert cli("status", "--store", tmp_path).err == f"no grid runs on {tmp_path}\n"


AXES = """
[grid]
seed = [0, 1]
unlearn = [{ use = "fine-tune", epochs = 1, lr = 0.01 }, { use = "l1-sparse", epochs = EPOCHS }]
"""


def wait(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


def entries(store):
    """Every file of steps and runs, by where it is, with what a second writing would change."""
    files = [path for kind in ("steps", "runs") for path in store.glob(f"{kind}/*/*")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def logged(store, event, label=""):
    """Keys of what the last grid began or has done: what is judged, or all else."""
    text = max(store.glob("logs/*.jsonl")).read_text() if (store / "logs").is_dir() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    told = [line for line in lines if line["event"] == event]
    return {line["key"] for line in told if (line["label"] == "judge") == (label == "judge")}


@pytest.mark.slow
def test_a_plan_changed_under_a_half_finished_grid(command, tmp_path, text):
    store, plan = tmp_path / ".secateur", tmp_path / "plan.toml"
    old = text.replace("test = 0.8", "test = 0.3") + AXES.replace("EPOCHS", "4")
    plan.write_text(old)
    process = command("grid", "plan.toml", cwd=tmp_path)
    until = time.monotonic() + 240
    while not logged(store, "done", "judge") and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    finished = {path.parent.name for path in store.glob(f"steps/*/{SUMS}")}
    before, runs = entries(store), len(logged(store, "done", "judge"))
    assert 0 < runs < 4

    plan.write_text(text.replace("test = 0.8", "test = 0.3") + AXES.replace("EPOCHS", "5"))
    (tmp_path / "elsewhere").mkdir()
    _, err = wait(command("grid", plan, "--store", store, cwd=tmp_path / "elsewhere"))
    assert re.fullmatch(
        rf"secateur: {re.escape(str(plan))} or its --set has changed since [-0-9]+T[:0-9]+Z, when a grid of "
        rf"it began that was stopped after {runs} of 4 runs: what that finished is kept, steps in common are "
        "not taken again, and the old plan can still be finished\n",
        err,
    )
    assert logged(store, "began")
    assert not logged(store, "began") & finished
    assert {path: entries(store)[path] for path in before} == before

    done = {path.parent.name for path in store.glob(f"steps/*/{SUMS}")}
    before = entries(store)
    plan.write_text(old)
    _, err = wait(command("grid", "plan.toml", cwd=tmp_path))
    assert err == ""  # the last grid of this plan finished: nothing is half done
    assert logged(store, "began")
    assert not logged(store, "began") & done
    assert {path: entries(store)[path] for path in before} == before
    whole = run_grid(expand(load(plan)), tmp_path / "whole")
    assert run_grid(expand(load(plan)), store).taken == ()
    there = {record.key: told(record) for record in all_runs(store)}
    assert [there[record.key] for record in whole.records] == [told(record) for record in whole.records]
    held = tensors(store)
    assert {name: held[name] for name in tensors(tmp_path / "whole")} == tensors(tmp_path / "whole")


def test_the_command_tells_people_and_programs(begun, cli, tmp_path):
    told = cli("status", "--store", tmp_path)
    assert (told.code, told.out, told.err) == (0, "", f"no grid runs on {tmp_path}\n")
    assert json.loads(cli("status", "--store", tmp_path, "--json").out) == []
    begun()
    shown = cli("status", "--store", tmp_path).out
    for word in ("plan.toml", str(os.getpid()), "running", "train (run 3)", "1/4"):
        assert word in shown
    (row,) = json.loads(cli("status", "--store", tmp_path, "--json").out)
    assert (row["done"], row["failed"], row["running"][0]["label"]) == (1, 1, "train")


def test_status_never_waits_for_torch(tmp_path):
    code = "import sys; from secateur.lab import status; from pathlib import Path; status(Path('.'))"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "logs").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot write .*name another --store"):
        Log(tmp_path)("start")
