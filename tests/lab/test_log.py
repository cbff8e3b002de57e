"""The log of a grid, and what ``secateur status`` reads from it."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from secateur.errors import StoreError
from secateur.lab import expand, run_grid, status
from secateur.lab.log import Log


@pytest.fixture
def begun(tmp_path):
    """Write the log of a grid that has begun, and not ended."""

    def write(plan="plan.toml", pid=None, host=None, number=1):
        log = Log(tmp_path)
        log.path = tmp_path / "logs" / f"{number}.jsonl"
        log("start", plan=plan, pid=pid or os.getpid(), host=host or platform.node(), runs=4)
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
