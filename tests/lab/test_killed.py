"""Grids that are killed, and those that share a store, end with the bits of one that ran through."""

import signal
import time

import pytest

from secateur.lab import expand, load, run_grid

from .test_execute import tensors, told

KILLED = """\
[grid]
seed = [0, 1]
unlearn = [
  { use = "retrain", epochs = 2, batch = 32 },
  { use = "fine-tune", epochs = 2, batch = 32 },
]
"""
STEPS = 2 * (1 + 2)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same grid, run through in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def once(path):
        if not list(folder.iterdir()):
            assert len(run_grid(expand(load(path)), folder).taken) == STEPS
        return folder

    return once


def die(process, store, enough):
    """Kill a process as soon as the store looks as wanted."""
    until = time.monotonic() + 120
    while not enough() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"


def check_resumed(path, store, undisturbed):
    finished = [key.name for key in store.glob("steps/*") if (key / "sums.json").exists()]
    ended = run_grid(expand(load(path)), store)
    assert not ended.failures
    assert len(ended.taken) == STEPS - len(finished)
    whole = undisturbed(path)
    assert tensors(store) == tensors(whole)
    assert not list(store.rglob(".writing-*"))
    want = run_grid(expand(load(path)), whole)
    assert want.taken == ()
    assert [told(record) for record in ended.records] == [told(record) for record in want.records]


def write(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text.replace("test = 0.8", "test = 0.5").replace("epochs = 1", "epochs = 2") + KILLED)
    return path


@pytest.mark.parametrize(
    "moment",
    [
        "steps/*/sums.json 1",
        *(pytest.param(f"steps/*/sums.json {n}", marks=pytest.mark.slow) for n in (2, 3, 4, 5, 6)),
        *(pytest.param(f"runs/*/sums.json {n}", marks=pytest.mark.slow) for n in (1, 2, 3)),
        *(pytest.param(f"outputs/*/sums.json {n}", marks=pytest.mark.slow) for n in (1, 3, 5)),
        *(
            pytest.param(f"{kind}/.writing-*/entry/* 1", marks=pytest.mark.slow)
            for kind in ("steps", "outputs", "runs")
        ),
    ],
)
def test_a_killed_grid_resumes_to_the_same_bits(tmp_path, text, command, store, undisturbed, moment):
    path = write(tmp_path, text)
    pattern, count = moment.split()
    die(command("grid", path, "--store", store), store, lambda: len(list(store.glob(pattern))) >= int(count))
    check_resumed(path, store, undisturbed)


@pytest.mark.slow
def test_a_grid_that_is_killed_again_and_again_gets_there(tmp_path, text, command, store, undisturbed):
    path = write(tmp_path, text)
    for count in range(1, STEPS, 2):
        process = command("grid", path, "--store", store)
        die(process, store, lambda count=count: len(list(store.glob("steps/*/sums.json"))) >= count)
    check_resumed(path, store, undisturbed)


@pytest.mark.slow
def test_two_processes_may_share_a_store(tmp_path, text, command, store, undisturbed):
    path = write(tmp_path, text)
    both = [command("grid", path, "--store", store, "--json") for _ in range(2)]
    ended = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert ended[0][0] == ended[1][0]
    check_resumed(path, store, undisturbed)
