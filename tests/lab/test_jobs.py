"""Grids over several processes: the same records, each step once, whatever dies, fails or is stopped."""

import json
import signal
import subprocess
import time

import pytest

from secateur.errors import NotFinite, StepError, UsageError
from secateur.lab import expand, run_grid

from .conftest import OUTSIDE
from .test_execute import tensors, told

pytestmark = pytest.mark.slow  # each starts grids of several processes


def events(store):
    (path,) = store.glob("logs/*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_jobs_leave_what_one_leaves_and_share_their_prefixes(tiny, store):
    tiny["step"].insert(1, {"use": "magnitude", "as": "prune", "sparsity": 0.0})
    tiny["audit"] = [{"use": "accuracy"}, {"use": "retrain-gap", "references": 1}]
    tiny["grid"] = {
        "prune.sparsity": [0.0, 0.5],
        "data.forget": [{"how": "class", "classes": [3]}, {"how": "random", "count": 40}],
        "unlearn": [{"use": "fine-tune", "epochs": 1}, {"use": "retrain", "epochs": 1}],
    }
    plans = expand(tiny)
    two = run_grid(plans, store, jobs=2)
    one = run_grid(plans, store.with_name("other"))
    assert not two.failures
    assert [told(record) for record in two.records] == [told(record) for record in one.records]
    assert tensors(store) == tensors(store.with_name("other"))
    assert sorted(two.taken) == sorted(one.taken)  # nothing twice: both sparsities share one training
    assert two.taken.count("train") == 1
    assert len({record.key for record in two.records}) == 8


def test_a_worker_that_dies_once_is_replaced(tiny, store, outside):
    (outside / "words").write_text("once")
    tiny["step"].insert(1, {"use": "outside:Deadly", "path": str(outside / "words")})
    ended = run_grid(expand(tiny), store, jobs=2)
    assert not ended.failures
    assert ended.taken == ("train", "outside:Deadly", "fine-tune")
    (died,) = [event for event in events(store) if event["event"] == "died"]
    assert (died["label"], died["why"]) == ("Deadly", "signal SIGKILL")


def test_a_worker_that_dies_twice_and_a_step_that_fails_are_told_and_the_rest_finishes(tiny, store, outside):
    (outside / "words").write_text("once twice never-reached")
    deadly = {"use": "outside:Deadly", "path": str(outside / "words")}
    tiny["grid"] = {"train.lr": [0.1, 1e30], "unlearn": [deadly, {"use": "fine-tune", "epochs": 1}]}
    ended = run_grid(expand(tiny), store, jobs=2)
    assert len(ended.records) == 1
    assert [number for number, _ in ended.failures] == [1, 3, 4]
    (_, dead), (_, third), (_, fourth) = ended.failures
    assert isinstance(dead, StepError)
    assert 'expected a worker to finish "unlearn", but 2 of them died (signal SIGKILL)' in str(dead)
    assert isinstance(third, NotFinite)
    assert third is fourth
    assert third.__notes__ == ['in the step "train"']
    assert (outside / "words").read_text() == "never-reached"


def test_the_exit_code_and_the_lines_of_a_grid_without_a_terminal(command, tmp_path, text):
    axes = '[grid]\n"train.lr" = [0.1, 1e30]\n'
    (tmp_path / "plan.toml").write_text(text.replace("threads = 1", "") + axes)
    process = command("grid", "plan.toml", "--jobs", "2", "--json", cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 5, err
    assert {row["method"] for row in json.loads(out)} >= {"fine-tune"}
    assert "threads = 1 in the plan gives the same runs under any --jobs" in err
    for line in ('began "train" of run 1 of 2', 'done "judge" of run 1 of 2', 'failed "train" of run 2 of 2'):
        assert f" {line}\n" in err
    assert "secateur: run 2 of 2 failed: expected a finite loss, got " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("stops", [1, 2])
def test_ctrl_c_stops_the_workers_and_says_that_nothing_is_lost(command, tmp_path, text, stops):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    (tmp_path / "workers").mkdir()
    slow = f'{{ use = "outside:Slow", path = "{tmp_path / "workers"}" }}'
    axes = f"[grid]\nunlearn = [{slow}]\nseed = [0, 1]\n"
    (tmp_path / "plan.toml").write_text(text + axes)
    process = command("grid", "plan.toml", "--jobs", "2", cwd=tmp_path)
    until = time.monotonic() + 200
    while len(found := list((tmp_path / "workers").iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    for _ in range(stops):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    last = "secateur: stopped; what was finished is in the store, and the same command goes on from there\n"
    assert err.endswith(last) or stops == 2
    assert len(list(tmp_path.glob(".secateur/steps/*"))) == 2  # the trainings
    pids = {path.name for path in found}
    until = time.monotonic() + 20
    while (alive := pids & _alive()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive
    assert not list(tmp_path.glob(".secateur/*/.writing-*/**/*"))


def _alive():
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    return {pid for pid, state in (line.split() for line in listed.splitlines()) if state[0] != "Z"}


def test_engines_and_jobs_that_are_not_there(cli, tiny, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(text)
    asked = cli("grid", "plan.toml", "--engine", "slurm")
    assert (asked.code, asked.err) == (2, 'secateur: no engine is called "slurm", one of: local, ray\n')
    assert cli("grid", "plan.toml", "--jobs", "0").code == 2
    with pytest.raises(UsageError, match="expected at least one job, got 0"):
        run_grid(expand(tiny), tmp_path / "store", jobs=0)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]
