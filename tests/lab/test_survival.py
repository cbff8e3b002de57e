"""Grids that are killed, stopped, short of room, damaged, two on a store: nothing is lost or done twice."""

import math
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from secateur import audits
from secateur.lab import check_store, expand, load, run_grid
from secateur.lab.review import all_runs
from secateur.lab.store import SUMS
from secateur.lab.tiers import audit_tier

from .test_execute import flip, tensors, told

pytestmark = pytest.mark.slow  # each starts grids in processes of their own, and ends most of them

TOOLS = Path(__file__).resolve().parents[2] / "tools"
GRID = """\
[grid]
seed = [0, 1]
unlearn = [
  { use = "retrain", epochs = 2, batch = 32 },
  { use = "fine-tune", epochs = 2, batch = 32 },
]
"""
STEPS = 2 * (1 + 2)
STOPPED = "secateur: stopped; what was finished is in the store, and the same command goes on from there\n"
OUTSIDE = '''
import os, time
from dataclasses import dataclass
from pathlib import Path
from secateur.card import Card

@dataclass(frozen=True, kw_only=True)
class Patient:
    """Says who it is, and waits until it may go on.

    Attributes:
        path: A folder: a file in it names the process, one called "go" lets it go on.
    """

    card = Card(summary="Waits.", paper="", data="none", version=1)
    reads = frozenset()
    path: str

    def __call__(self, state, run):
        (Path(self.path) / str(os.getpid())).touch()
        until = time.monotonic() + 200
        while not (Path(self.path) / "go").exists() and time.monotonic() < until:
            time.sleep(0.02)
        return state


@dataclass(frozen=True, kw_only=True)
class Stubborn:
    """Does not let itself be stopped: it says that it was, and stays.

    Attributes:
        path: A folder: a file "go" in it lets it go on; it writes "here" and "stopped", with its number.
    """

    card = Card(summary="Stays.", paper="", data="none", version=1)
    reads = frozenset()
    path: str

    def __call__(self, state, run):
        folder = Path(self.path)
        (folder / f"here-{os.getpid()}").touch()
        try:
            time.sleep(0 if (folder / "go").exists() else 200)
        except BaseException:  # Ctrl-C here, the exit that SIGTERM asks for in a worker
            (folder / f"stopped-{os.getpid()}").touch()
            time.sleep(200)
        return state
'''


@pytest.fixture
def survival(monkeypatch):
    """The tool that kills grids at random moments."""
    monkeypatch.syspath_prepend(TOOLS)
    import survival

    return survival


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same grid, run through in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def once(path):
        if not list(folder.iterdir()):
            assert len(run_grid(expand(load(path)), folder).taken) == STEPS
        return folder

    return once


def until(enough, process, seconds=120):
    """Wait until the store looks as wanted, or a process has ended."""
    end = time.monotonic() + seconds
    while not enough() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)


def die(process, enough):
    """Kill a process as soon as the store looks as wanted."""
    until(enough, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"


def there(store, pattern):
    return len(list(store.glob(pattern)))


def check_resumed(path, store, undisturbed):
    finished = there(store, f"steps/*/{SUMS}")
    ended = run_grid(expand(load(path)), store)
    assert not ended.failures
    assert len(ended.taken) == STEPS - finished
    check_whole(path, store, undisturbed)


def check_whole(path, store, undisturbed):
    whole = undisturbed(path)
    assert tensors(store) == tensors(whole)
    assert not list(store.rglob(".writing-*"))
    assert not list(store.glob("locks"))
    ended, want = (run_grid(expand(load(path)), folder) for folder in (store, whole))
    assert ended.taken == want.taken == ()
    assert [told(record) for record in ended.records] == [told(record) for record in want.records]


@pytest.fixture
def path(tmp_path, text):
    made = tmp_path / "plan.toml"
    made.write_text(text.replace("test = 0.8", "test = 0.5").replace("epochs = 1", "epochs = 2") + GRID)
    return made


class TestKilled:
    @pytest.mark.parametrize(
        "moment",
        [
            *(f"steps/*/{SUMS} {n}" for n in (1, 2, 3, 4, 5, 6)),
            *(f"runs/*/{SUMS} {n}" for n in (1, 2, 3)),
            *(f"outputs/*/{SUMS} {n}" for n in (1, 3, 5)),
            *(f"{kind}/.writing-*/entry/* 1" for kind in ("steps", "outputs", "runs")),
            "locks/* 1",
        ],
    )
    def test_a_killed_grid_resumes_to_the_same_bits(self, path, command, store, undisturbed, moment):
        pattern, count = moment.split()
        die(command("grid", path, "--store", store), lambda: there(store, pattern) >= int(count))
        check_resumed(path, store, undisturbed)

    def test_a_grid_that_is_killed_again_and_again_gets_there(self, path, command, store, undisturbed):
        for count in range(1, STEPS, 2):
            process = command("grid", path, "--store", store)
            die(process, lambda count=count: there(store, f"steps/*/{SUMS}") >= count)
        check_resumed(path, store, undisturbed)

    def test_at_random_moments(self, tmp_path, survival):
        plan = tmp_path / "plan.toml"
        plan.write_text(survival.PLAN)
        found = list(survival.kills(plan, tmp_path, count=8, seed=3))
        assert [one.jobs for one in found] == [1, 2] * 4
        assert [one.faults for one in found] == [()] * 8


class TestStopped:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_two_ctrl_c_are_one_sentence_and_nothing_is_lost(self, path, command, store, undisturbed, jobs):
        process = command("grid", path, "--store", store, "--jobs", jobs)
        until(lambda: there(store, f"steps/*/{SUMS}"), process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert err.endswith(STOPPED)
        assert err.count("secateur:") == 1
        assert "Traceback" not in err
        check_resumed(path, store, undisturbed)

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_second_ctrl_c_ends_what_does_not_end_at_the_first(
        self, tmp_path, text, command, store, survival, jobs
    ):
        (tmp_path / "outside.py").write_text(OUTSIDE)
        (said := tmp_path / "said").mkdir()
        plan = tmp_path / "plan.toml"
        stubborn = f'{{ use = "outside:Stubborn", path = "{said}" }}'
        plan.write_text(f"{text}[grid]\nseed = {[0, 1][:jobs]}\nunlearn = [{stubborn}]\n")
        words = ("grid", plan, "--store", store, "--jobs", jobs)
        process = command(*words)
        until(lambda: there(said, "here-*") == jobs, process)
        process.send_signal(signal.SIGINT)
        until(lambda: there(said, "stopped-*") == jobs, process)
        assert process.poll() is None, "the first was enough"
        process.send_signal(signal.SIGINT)
        # of the ten seconds that a worker has to put its things away, and of the 200 that the step stays
        process.wait(timeout=5)
        out, err = process.communicate(timeout=20)  # not before its workers, which hold its pipes, are gone
        assert (process.returncode, out) == (130, "")
        assert err.endswith(STOPPED)
        assert err.count("secateur:") == 1
        assert "Traceback" not in err
        assert there(store, f"steps/*/{SUMS}") == jobs  # the trainings
        (said / "go").touch()
        again = command(*words)
        _, err = again.communicate(timeout=120)
        assert again.returncode == 0, err
        taken = survival.steps_taken(store)
        assert set(taken.values()) == {1}, taken
        assert len(taken) == there(store, f"steps/*/{SUMS}") == 2 * jobs
        assert there(store, f"runs/*/{SUMS}") == jobs
        assert not survival.temporary(store)


class TestOnAFullDisk:
    @pytest.fixture
    def disk(self, tmp_path):
        """Four megabytes, of this test alone."""
        place = tmp_path / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"a disk of its own takes the right to mount one: {done and done.stderr.strip()}")
        yield place
        subprocess.run(["umount", "-l", str(place)], check=True)

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_one_sentence_and_with_room_it_goes_on(self, path, command, disk, undisturbed, jobs):
        sizes = [one.stat().st_size for one in undisturbed(path).rglob("*") if one.is_file()]
        half = sum(4096 * math.ceil(size / 4096) for size in sizes) // 2
        ballast, store = disk / "ballast", disk / "store"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free // 4096 * 4096 - half))
        process = command("grid", path, "--store", store, "--jobs", jobs)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (4, ""), err
        said = [line for line in err.splitlines() if line.startswith("secateur:")]
        assert len(said) == 1, err
        assert said[0].startswith(f'secateur: cannot write "{store}')
        assert "(No space left on device): free or unlock the disk" in said[0]
        assert "Traceback" not in err
        assert there(store, "*/*/sums.json") > 0
        assert check_store(store).faults == ()
        ballast.unlink()
        check_resumed(path, store, undisturbed)


class TestDamaged:
    def test_a_flipped_bit_in_a_file_of_any_kind_is_found_named_and_made_anew(self, tmp_path, text, survival):
        """What nothing asks for is not read: then ``store check`` finds it, and its advice is followed."""
        plan, store = tmp_path / "plan.toml", tmp_path / "store"
        plan.write_text(text + GRID.replace("seed = [0, 1]", "seed = [0]"))
        ask = [audits.shelf["u-lira"](models=4)]

        def runs():
            assert not run_grid(expand(load(plan)), store).failures

        def again():
            runs()
            run = next(record for record in all_runs(store) if record.method == "fine-tune")
            audit_tier(store, run.key, ask)

        runs()
        ours = survival.files_of(store)
        again()
        whole = survival.files_of(store)
        # not a model of the bank: trained again without those beside it, it has other roundings
        names = {Path(name).parts[0] + "/" + Path(name).name: store / name for name in [*whole, *ours]}
        kinds = {kind.partition("/")[0] for kind in names}
        assert kinds == {"steps", "outputs", "runs", "splits", "banks", "audits"}
        # how fast models train together is measured anew, and may then lead to others
        del names["banks/chunk.json"]
        for name, file in sorted(names.items()):
            flip(file, at=file.stat().st_size // 2)
            (fault,) = check_store(store).faults
            assert fault.what.startswith(f'"{file}" is not what was written (its checksum differs)'), name
            assert f'delete the folder "{file.parent}" and run the plan again' in fault.what
            again()
            for left in check_store(store).faults:
                assert left == fault
                shutil.rmtree(file.parent)
                again()
            assert check_store(store).faults == ()
            assert survival.files_of(store) == whole, name


class TestTwoAtOnce:
    @pytest.mark.parametrize("jobs", [(1, 1), (2, 1)])
    def test_each_step_is_taken_once_in_all(self, path, command, store, undisturbed, survival, jobs):
        both = [command("grid", path, "--store", store, "--json", "--jobs", n) for n in jobs]
        ended = [process.communicate(timeout=240) for process in both]
        assert [process.returncode for process in both] == [0, 0], ended
        assert ended[0][0] == ended[1][0]
        taken = survival.steps_taken(store)
        assert set(taken.values()) == {1}, taken
        assert len(taken) == there(store, f"steps/*/{SUMS}") == STEPS
        check_whole(path, store, undisturbed)

    def test_who_waits_says_so_once_may_be_stopped_and_takes_over(
        self, tmp_path, text, command, store, survival
    ):
        (tmp_path / "outside.py").write_text(OUTSIDE)
        (said := tmp_path / "said").mkdir()
        plan = tmp_path / "plan.toml"
        patient = f'{{ use = "outside:Patient", path = "{said}" }}'
        plan.write_text(f'{text}[grid]\nunlearn = [{patient}, {{ use = "fine-tune", epochs = 1 }}]\n')
        words = ("grid", plan, "--store", store)
        first = command(*words)
        until(lambda: list(said.iterdir()), first)
        waiting = f'waiting for process {first.pid}, which takes the step "unlearn"\n'

        second = command(*words)
        assert second.stderr.readline() == waiting
        assert there(store, f"runs/*/{SUMS}") == 1, "what nobody takes comes first"
        second.send_signal(signal.SIGINT)
        assert second.communicate(timeout=20)[1] == STOPPED
        assert second.returncode == 130

        third = command(*words, "--jobs", 2)
        while (line := third.stderr.readline()) != waiting:
            assert line
        first.kill()
        first.communicate()
        until(lambda: len(list(said.iterdir())) == 2, third)
        (said / "go").touch()
        _, err = third.communicate(timeout=120)
        assert third.returncode == 0, err
        assert "waiting" not in err
        assert set(survival.steps_taken(store).values()) == {1}
        assert there(store, f"runs/*/{SUMS}") == 2
        assert not survival.temporary(store)
