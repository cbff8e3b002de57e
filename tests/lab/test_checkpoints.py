"""Trainings that are killed or asked to end in their midst go on from there, to the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext

import pytest

from secateur.errors import NotFinite
from secateur.lab import expand, load, run_plan
from secateur.lab.ending import training
from secateur.lab.execute import Lab
from secateur.lab.store import Store

from .test_execute import flip, tensors, told

pytestmark = pytest.mark.slow  # real processes, really killed

SECATEUR = ("-m", "secateur")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TORCHRUN = (*TWO, *SECATEUR)
PLAN = """\
threads = 1

[data]
use = "digits"
test = 0.3
forget = { how = "class", classes = [3] }

[model]
use = "small-cnn"

[[step]]
use = "train"
epochs = 12
keep = [2, 9]

[[step]]
use = "fine-tune"
as = "unlearn"
epochs = 2
"""
ENDED = "secateur: ended as asked; what was done is kept, and the same command goes on from there"
COUNTED = '''
import os, time
from pathlib import Path
import torch
from secateur.zoo import small_cnn

class Counted(torch.nn.Module):
    """Counts the updates of its process in a file; one of them lasts, where a file "slow" asks for it."""

    def __init__(self, folder):
        super().__init__()
        self.net, self.folder = small_cnn(width=2), Path(folder)

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            mine = self.folder / str(os.getpid())
            with mine.open("a") as file:
                file.write(".")
            if mine.stat().st_size == 20 and (self.folder / "slow").exists():
                mine.with_suffix(".slow").touch()
                time.sleep(3)
        return self.net(x)

def net(*, folder: str):
    return Counted(folder)
'''
BEGINS = """
import sys
from pathlib import Path
from secateur.lab.checkpoints import Keeper
from secateur.lab.shared import store_at
from secateur.ranks import joined, rank

with joined():
    store = store_at(Path(sys.argv[1]))
    if rank():
        store.keys = lambda kind: []  # a network disk may show what was there a moment ago
    held = Keeper(store, "step", 60.0).begin()
    Path(sys.argv[2], f"rank {rank()}").write_bytes(held["training"])
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def start():
    """Starts commands, and ends what is left of them."""
    with ExitStack() as started:

        def one(plan, store, minutes, *how, words=("run",)):
            process = subprocess.Popen(
                [
                    sys.executable,
                    *(how or SECATEUR),
                    *words,
                    plan,
                    "--store",
                    store,
                    "--checkpoint",
                    str(minutes),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield one


def wait_for(store, pattern, process):
    until = time.monotonic() + 120
    while not list(store.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


def check(plan, store, tmp_path):
    """The run goes on in the midst of its training, and ends as one that was never disturbed."""
    kept = max(store.glob("checkpoints/*"))  # killed while it put away the one before, it leaves two
    done = json.loads((kept / "about.json").read_text())["done"]
    spent = json.loads((kept / "clock.json").read_text())["seconds"]
    assert done > 0
    bars = Watched()
    record = run_plan(expand(load(plan))[0], store, bars)
    assert bars.first["train"] == done
    whole = run_plan(expand(load(plan))[0], tmp_path / "whole")
    assert told(record) == told(whole)
    assert tensors(store) == tensors(tmp_path / "whole")
    assert not list(store.glob("checkpoints/*"))
    assert record.steps[0].seconds > spent


class Watched:
    """What the first word of each bar was."""

    def __init__(self):
        self.first = {}

    def bar(self, label, total):
        return nullcontext(lambda done: self.first.setdefault(label, done))


def test_killed_in_the_midst_of_a_training(plan, start, tmp_path):
    store = tmp_path / "store"
    process = start(plan, store, 0)
    wait_for(store, "checkpoints/*.00001?/sums.json", process)
    process.kill()
    process.communicate()
    assert not list(store.glob("steps/*"))
    check(plan, store, tmp_path)


def test_asked_to_end_it_keeps_the_training_first(plan, start, tmp_path):
    store = tmp_path / "store"
    plan.write_text(PLAN.replace("epochs = 12", "epochs = 120"))
    process = start(plan, store, 0.02)
    # the first has gone, so the second is kept, and a third is due in more than a second
    wait_for(store, "checkpoints/*.000002/sums.json", process)
    while list(store.glob("checkpoints/*.000001")):
        assert process.poll() is None
    time.sleep(0.1)  # until an update has come after it: asked before that, it has nothing more to keep
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.strip() == ENDED
    assert not list(store.glob("checkpoints/*.000002")), "another was kept when it was asked to end"
    check(plan, store, tmp_path)


class Counts:
    """A folder in which processes count their updates."""

    def __init__(self, folder, text):
        self._folder, self._seen = folder, set()
        self.plan = folder.with_name("counted.toml")
        text = text.replace('use = "small-cnn"', f'use = "counted:net"\nfolder = "{folder}"')
        self.plan.write_text(text.replace("epochs = 12\nkeep = [2, 9]", "epochs = 4\nbatch = 32"))

    def new(self):
        """Updates of each process that came since this was asked before."""
        found = {path.name: path.stat().st_size for path in self._folder.iterdir() if path.name.isdigit()}
        found = {pid: count for pid, count in found.items() if pid not in self._seen}
        self._seen |= set(found)
        return list(found.values())

    def ask_to_end(self, process, count):
        """SIGTERM to some processes and their parent, twice in an update: Slurm and torchrun both send it."""
        until = time.monotonic() + 120
        while len(slow := list(self._folder.glob("*.slow"))) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)
        for _ in range(2):
            for pid in {process.pid, *(int(path.stem) for path in slow)}:
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.3)


@pytest.fixture
def counts(tmp_path, monkeypatch):
    (tmp_path / "counted.py").write_text(COUNTED)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (folder := tmp_path / "counts").mkdir()
    yield Counts(folder, PLAN)
    sys.modules.pop("counted", None)


HOWS = {
    "run": (1, SECATEUR, ("run",)),
    "grid": (2, SECATEUR, ("grid", "--jobs", "2", "--set", "grid.seed=[0, 1]")),
    "torchrun": (2, TORCHRUN, ("run",)),
}


@pytest.mark.parametrize("how", HOWS)
def test_asked_to_end_twice_it_keeps_what_it_was_asked_to_keep(how, counts, start, tmp_path):
    processes, command, words = HOWS[how]
    store, whole, slow = tmp_path / "store", tmp_path / "whole", tmp_path / "counts" / "slow"

    def end(store):
        process = start(counts.plan, store, 60, *command, words=words)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return counts.new()

    want = end(whole)
    slow.touch()
    process = start(counts.plan, store, 60, *command, words=words)
    counts.ask_to_end(process, processes)
    _, said = process.communicate(timeout=120)
    slow.unlink()
    if how == "torchrun":  # which tells it by code and trace of its own
        assert process.returncode
        assert f"{ENDED.replace('secateur', 'secateur, rank 0')}\n" in said
    else:
        assert process.returncode == 143, said
        assert said.endswith(f"{ENDED}\n")
        assert said.count("secateur:") == 1
        assert "Traceback" not in said
    kept = list(store.glob("checkpoints/*/about.json"))
    assert len(kept) == (2 if how == "grid" else 1)
    counted = counts.new()
    done = [json.loads(path.read_text())["done"] for path in kept]
    assert sum(done) * (processes // len(kept)) == sum(counted), "not what it was asked to keep"
    assert min(done) >= 20
    again = end(store)
    assert sum(again) == sum(want) - sum(counted), "it did not go on from there"
    assert tensors(store) == tensors(whole)
    assert not list(store.glob("checkpoints/*"))


def test_a_damaged_checkpoint_is_told_and_the_step_begins_anew(plan, start, tmp_path, caplog):
    store = tmp_path / "store"
    process = start(plan, store, 0)
    wait_for(store, "checkpoints/*.00001?/sums.json", process)
    process.kill()
    process.communicate()
    kept = max(store.glob("checkpoints/*/training.safetensors"))
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    record = run_plan(expand(load(plan))[0], store)
    assert re.search(r"training.safetensors\" is not what was written .* made anew", caplog.text)
    assert told(record) == told(run_plan(expand(load(plan))[0], tmp_path / "whole"))


def test_a_training_that_fails_leaves_no_word_that_one_is_under_way(plan, tmp_path):
    plan.write_text(PLAN.replace("epochs = 12", "epochs = 9\nlr = 1e30"))
    with pytest.raises(NotFinite):
        Lab(Store(tmp_path / "store")).run(expand(load(plan))[0])
    assert not training.is_set()


def test_two_processes_of_torchrun_make_one_run(plan, start, tmp_path):
    whole = tmp_path / "whole"
    process = start(plan, whole, 60, *TORCHRUN)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed.count("run ") == 1, "one of them speaks"
    (path,) = whole.glob("runs/*/record.json")
    want = json.loads(path.read_text())
    assert want["run"]["world_size"] == 2


def test_processes_of_torchrun_go_on_from_what_the_first_of_them_sees(start, tmp_path):
    store = Store(tmp_path / "store")
    for i, text in enumerate((b"first", b"second"), start=1):
        store.put("checkpoints", f"step.0.{i:06}", {"training": text, "clock.json": b'{"seconds": 1}'})
    flip(store.path("checkpoints", "step.0.000002") / "training")
    (tmp_path / "begins.py").write_text(BEGINS)
    words = [sys.executable, *TWO, tmp_path / "begins.py", store.root, tmp_path]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [(tmp_path / f"rank {i}").read_bytes() for i in (0, 1)] == [b"first"] * 2
    assert ended.stderr.count('training" is not what was written') == 1
    assert store.keys("checkpoints") == ["step.0.000001"]


def test_other_commands_are_not_for_torchrun(plan):
    ended = subprocess.run(
        [sys.executable, "-m", "secateur", "grid", plan],
        env={"WORLD_SIZE": "2", "RANK": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        "secateur, rank 1: expected torchrun to start `secateur run`, got `grid`: only a run is computed by "
        "several processes together; start this one by itself, and a grid with --jobs"
    )
