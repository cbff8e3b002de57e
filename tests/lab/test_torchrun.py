"""``torchrun -m secateur run``: what is wrong for all processes is told once, before anything is taken."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # real processes, over gloo

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "secateur")
REFERENCE = """
[[audit]]
use = "retrain-gap"
references = 2

[reference]
use = "retrain"
epochs = 1
batch = BATCH
"""


@pytest.fixture
def torchrun(tmp_path, text):
    """Runs the tiny plan in two processes; the batch of each step, of the second, and of the reference."""

    def run(second, reference, *options):
        plan = text.replace('as = "unlearn"\nepochs = 1\nbatch = 64', f'as = "unlearn"\nbatch = {second}')
        assert plan != text
        (tmp_path / "plan.toml").write_text(plan + REFERENCE.replace("BATCH", str(reference)))
        command = [sys.executable, *TORCHRUN, "run", "plan.toml", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    return run


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_batches_that_two_processes_do_not_divide(torchrun, tmp_path, options):
    ended = torchrun(33, 15, *options)
    assert ended.returncode, ended.stdout
    told = (
        'secateur: expected batches that 2 processes can share evenly, got batch=33 in "unlearn", batch=15 '
        "in the reference: each takes its part of every batch, so nothing was begun; set batch to a multiple "
        "of 2\n"
    )
    assert ended.stderr.count(told) == ended.stderr.count("share evenly") == 1, ended.stderr
    assert "exitcode  : 2 " in ended.stderr  # as torchrun tells what its processes ended with
    assert not (tmp_path / ".secateur").exists()


def test_an_estimate_is_printed_once_and_then_the_plan_runs(torchrun, tmp_path):
    ended = torchrun(32, 16, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("1 run, about ") == ended.stdout.count("fine-tune") == 1
    assert ended.stderr.count("secateur: this is what one process would take") == 1
    assert not (tmp_path / ".secateur").exists()
    ended = torchrun(32, 16)
    assert ended.returncode == 0, ended.stderr
    (path,) = tmp_path.glob(".secateur/runs/*/record.json")
    record = json.loads(path.read_text())
    assert (record["run"]["world_size"], len(record["references"])) == (2, 2)
