"""Grids over several processes: the same records, each step once, whatever dies, fails or is stopped."""

import json
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from secateur.errors import NotFinite, StepError, UsageError
from secateur.lab import expand, run_grid
from secateur.lab.environment import cpus
from secateur.lab.workers import gpus, one_gpu

from .conftest import OUTSIDE
from .test_execute import tensors, told

pytestmark = pytest.mark.slow  # each starts grids of several processes

BROKEN = '''
import fcntl, os, signal, stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secateur.card import Card

@dataclass(frozen=True, kw_only=True)
class Halfway:
    """Kills its process in the middle of a line to the grid, as often as there are words left in a file.

    Attributes:
        path: The file.
    """

    card = Card(summary="Kills its process.", paper="", data="none", version=1)
    reads = frozenset()
    path: str

    def __call__(self, state, run):
        words = Path(self.path).read_text().split()
        Path(self.path).write_text(" ".join(words[1:]))
        if words:
            for name in os.listdir("/proc/self/fd"):
                with suppress(OSError):
                    writes = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
                    if int(name) > 2 and writes and stat.S_ISFIFO(os.fstat(int(name)).st_mode):
                        os.write(int(name), b'{"key": "abc')
            os.kill(os.getpid(), signal.SIGKILL)
        return state
'''


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


def test_a_worker_that_dies_in_the_middle_of_an_answer_is_replaced(tiny, store, outside):
    (outside / "words").write_text("once")
    (outside / "broken.py").write_text(BROKEN)
    tiny["step"].insert(1, {"use": "broken:Halfway", "path": str(outside / "words")})
    ended = run_grid(expand(tiny), store, jobs=2)
    assert not ended.failures
    assert ended.taken == ("train", "broken:Halfway", "fine-tune")
    (died,) = [event for event in events(store) if event["event"] == "died"]
    assert (died["label"], died["why"]) == ("Halfway", "signal SIGKILL")


@pytest.mark.parametrize(
    ("seen", "environment", "want"),
    [
        (0, {}, [None, None, None]),
        (1, {"CUDA_VISIBLE_DEVICES": "5"}, [None, None, None]),
        (2, {}, ["0", "1", "0"]),
        (2, {"CUDA_VISIBLE_DEVICES": "3, 1"}, ["3", "1", "3"]),
        (4, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c,GPU-d"}, ["GPU-a", "GPU-b", "GPU-c"]),
        (2, {"CUDA_VISIBLE_DEVICES": "2,6,-1,7"}, ["2", "6", "2"]),  # CUDA does not look past what is none
    ],
)
def test_each_worker_has_a_gpu_of_its_own(seen, environment, want):
    assert [one_gpu(i, seen, environment).get("CUDA_VISIBLE_DEVICES") for i in range(3)] == want


def test_a_gpu_that_a_plan_names_is_not_hidden_from_it(tiny):
    (plan,) = expand(tiny)

    def over(*devices):
        settings = [replace(plan.settings, device=device) for device in devices]
        return gpus([replace(plan, settings=one) for one in settings], here=4)

    assert [over(device) for device in ("auto", "cuda", "cuda:1", "cpu")] == [4, 4, 0, 0]
    assert over("auto", "cuda:1") == 0


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


@pytest.mark.parametrize(("jobs", "more"), [(1, 1), (2, 0), (2, 1)])
def test_jobs_that_want_more_threads_than_there_are_cores_are_told(cli, tmp_path, text, jobs, more):
    threads = cpus() // 2 + more
    (tmp_path / "plan.toml").write_text(text.replace("threads = 1", f"threads = {threads}"))
    ran = cli("grid", tmp_path / "plan.toml", "--jobs", jobs, "--store", tmp_path / "store")
    assert ran.code == 0, ran.err
    told = f"2 jobs want {2 * threads} threads and there are {cpus()} cores"
    assert (told in ran.err) == (jobs == 2 and more == 1)


def test_ctrl_c_stops_the_workers_and_says_that_nothing_is_lost(command, tmp_path, text):
    (tmp_path / "outside.py").write_text(OUTSIDE)
    (tmp_path / "workers").mkdir()
    slow = f'{{ use = "outside:Slow", path = "{tmp_path / "workers"}" }}'
    axes = f"[grid]\nunlearn = [{slow}]\nseed = [0, 1]\n"
    (tmp_path / "plan.toml").write_text(text + axes)
    process = command("grid", "plan.toml", "--jobs", "2", cwd=tmp_path)
    until = time.monotonic() + 200
    while len(found := list((tmp_path / "workers").iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    last = "secateur: stopped; what was finished is in the store, and the same command goes on from there\n"
    assert err.endswith(last)
    assert err.count("secateur:") == 1
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
