"""Trainings that are killed or asked to end in their midst go on from there, to the same bits."""

import json
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

from .test_execute import tensors, told

pytestmark = pytest.mark.slow  # real processes, really killed

SECATEUR = ("-m", "secateur")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *SECATEUR)
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


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def start():
    """Starts commands, and ends what is left of them."""
    with ExitStack() as started:

        def one(plan, store, minutes, *how):
            process = subprocess.Popen(
                [
                    sys.executable,
                    *(how or SECATEUR),
                    "run",
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
    plan.write_text(PLAN.replace("epochs = 12", "epochs = 40"))
    process = start(plan, store, 0.02)
    # the first has gone, so the second is kept, and a third is due in more than a second
    wait_for(store, "checkpoints/*.000002/sums.json", process)
    while list(store.glob("checkpoints/*.000001")):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.strip() == (
        "secateur: ended as asked; what was done is kept, and the same command goes on from there"
    )
    assert not list(store.glob("checkpoints/*.000002")), "another was kept when it was asked to end"
    check(plan, store, tmp_path)


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


def test_two_processes_of_torchrun_make_one_run_and_go_on_where_they_were_killed(plan, start, tmp_path):
    store, whole = tmp_path / "store", tmp_path / "whole"
    process = start(plan, whole, 60, *TORCHRUN)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert printed.count("run ") == 1, "one of them speaks"
    (path,) = whole.glob("runs/*/record.json")
    want = json.loads(path.read_text())
    assert want["run"]["world_size"] == 2
    process = start(plan, store, 0, *TORCHRUN)
    wait_for(store, "checkpoints/*.00000?/sums.json", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode
    assert not list(store.glob("runs/*"))
    assert list(store.glob("checkpoints/*"))
    process = start(plan, store, 60, *TORCHRUN)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert tensors(store) == tensors(whole)
    assert not list(store.glob("checkpoints/*"))


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
