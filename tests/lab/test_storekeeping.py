"""Keeping a store: every fault is named, what a run needs stays, and what is taken out opens anywhere."""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from secateur.errors import StoreError, UsageError
from secateur.lab import (
    audit_run,
    check_store,
    expand,
    export_run,
    find_unused,
    load,
    remove_unused,
    run_grid,
    run_plan,
    to_toml,
)
from secateur.lab.review import FINDINGS, all_runs
from secateur.lab.store import SUMS, USES, Store, digest
from secateur.lab.storekeeping import Unused

from .test_execute import flip, tensors


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two methods that ran through, with a retrained reference; made once."""
    from ..plans import TINY

    folder = tmp_path_factory.mktemp("finished")
    plan = tomllib.loads(TINY) | {
        "grid": {"unlearn": [{"use": u, "epochs": 1} for u in ("fine-tune", "l1-sparse")]},
        "audit": [{"use": "accuracy"}, {"use": "retrain-gap", "references": 1}],
    }
    (folder / "plan.toml").write_text(to_toml(plan))
    ended = run_grid(expand(load(folder / "plan.toml")), folder / "store")
    assert not ended.failures
    return folder


@pytest.fixture
def store(finished, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(finished / "store", tmp_path / "store"))


@pytest.fixture
def plans(finished):
    return expand(load(finished / "plan.toml"))


def entries(store):
    return {str(path.parent.relative_to(store)) for path in store.glob(f"*/*/{SUMS}")}


def stripped(store, kind):
    """As entries were written before they named what they need."""
    for place in store.glob(f"{kind}/*"):
        (place / USES).unlink(missing_ok=True)
        sums = json.loads((place / SUMS).read_text())
        sums.pop(USES, None)
        (place / SUMS).write_text(json.dumps(sums))


def killed():
    """The number of a process that is no more."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return dead.pid


class TestChecking:
    def test_a_whole_store_has_no_faults_and_everything_is_counted(self, store):
        found = check_store(store)
        assert found.faults == ()
        assert {shelf.kind: shelf.entries for shelf in found.shelves} == {
            "steps": 4, "outputs": 4, "runs": 2, "splits": 1, "banks": 0, "audits": 0, "checkpoints": 0,
        }  # fmt: skip
        files = [path for path in store.glob("*/*/*") if path.is_file()]
        assert sum(shelf.files for shelf in found.shelves) == len(files)
        assert sum(shelf.bytes for shelf in found.shelves) == sum(path.stat().st_size for path in files)

    def test_one_flipped_bit_in_any_file_is_found_and_the_file_named(self, store):
        for path in sorted(path for path in store.glob("*/*/*") if path.name != SUMS):
            whole = path.read_bytes()
            flip(path, at=len(whole) // 2)
            (fault,) = check_store(store).faults
            assert fault.where == str(path.parent.relative_to(store))
            assert fault.what.startswith(f'"{path}" is not what was written (its checksum differs)')
            path.write_bytes(whole)
        assert check_store(store).faults == ()

    def test_each_missing_file_is_named(self, store):
        place = next(store.glob("steps/*"))
        (place / "state.safetensors").unlink()
        (place / "meta.json").unlink()
        told = [fault.what for fault in check_store(store).faults]
        assert len(told) == 2
        for name, what in zip(("state.safetensors", "meta.json"), told, strict=True):
            assert what.startswith(f'cannot read "{place / name}" (No such file or directory)')

    @pytest.mark.parametrize("kind", ["steps", "outputs", "splits"])
    def test_an_entry_that_a_run_needs_and_that_is_gone_is_told(self, store, plans, kind):
        (gone, *_) = sorted(store.glob(f"{kind}/*"))
        shutil.rmtree(gone)
        told = check_store(store).faults
        assert told
        assert all(f'needs "{gone}", which is not there: run its plan again' in fault.what for fault in told)
        for plan in plans:  # as it says
            run_plan(plan, store)
        assert check_store(store).faults == ()

    def test_folders_of_killed_processes_are_told_and_those_of_the_living_are_not(self, store):
        left = store / "steps" / f".writing-{os.uname().nodename}-{killed()}-a_1"
        living = store / "steps" / f".writing-{os.uname().nodename}-{os.getpid()}-a_1"
        for path in (left, living):
            (path / "entry").mkdir(parents=True)
        (fault,) = check_store(store).faults
        assert fault.where == str(left.relative_to(store))
        assert "was left by a process that was killed" in fault.what

    def test_of_another_machine_a_folder_counts_as_left_after_a_day(self, store):
        path = store / "steps" / ".writing-elsewhere-1-a_1"
        (path / "entry").mkdir(parents=True)
        assert check_store(store).faults == ()
        for one in (path, path / "entry"):
            os.utime(one, (time.time() - 90_000,) * 2)
        assert [fault.where for fault in check_store(store).faults] == [str(path.relative_to(store))]

    def test_an_entry_of_a_newer_format_is_one_sentence_and_is_left_alone(self, store, plans):
        place = next(store.glob("steps/*"))
        sums = json.loads((place / SUMS).read_text())
        (place / SUMS).write_text(json.dumps({"format": 2, **sums}))
        (fault,) = check_store(store).faults
        assert fault.what.startswith(
            f'expected an entry of format 1 in "{place}", got 2, which a newer version'
        )
        with pytest.raises(StoreError, match="expected an entry of format 1"):
            run_grid(plans, store)
        assert (place / SUMS).is_file()

    def test_a_record_of_a_newer_schema_is_one_sentence(self, store):
        place = next(store.glob("runs/*"))
        text = json.dumps(json.loads((place / "record.json").read_text()) | {"schema": 99})
        (place / "record.json").write_text(text)
        sums = json.loads((place / SUMS).read_text()) | {"record.json": digest(text.encode())}
        (place / SUMS).write_text(json.dumps(sums))
        (fault,) = check_store(store).faults
        assert fault.what.startswith("expected a record of schema 1 or ")
        assert fault.what.endswith("got 99: read it with the version of secateur that wrote it")

    def test_a_store_without_the_names_of_what_is_needed_stays_readable(self, store, plans):
        stripped(store, "runs")
        assert check_store(store).faults == ()
        assert run_grid(plans, store).taken == ()

    def test_the_oldest_runs_need_no_split(self, store):
        for place in store.glob("runs/*"):
            told = json.loads((place / "record.json").read_text())
            del told["split"]["file"]
            (place / "record.json").write_text(json.dumps(told))
            sums = {
                **json.loads((place / SUMS).read_text()),
                "record.json": digest(json.dumps(told).encode()),
            }
            (place / SUMS).write_text(json.dumps(sums))
        shutil.rmtree(store / "splits")
        assert check_store(store).faults == ()

    def test_no_store_is_no_clean_store(self, tmp_path):
        with pytest.raises(StoreError, match="there is no such folder"):
            check_store(tmp_path / "nowhere")


class TestTidying:
    def test_what_runs_need_is_not_unused(self, store):
        assert find_unused(store) == []

    @pytest.mark.parametrize("old", [False, True])
    def test_what_only_a_deleted_run_needed_goes_and_nothing_else(self, store, plans, old):
        if old:
            stripped(store, "runs")
        before = entries(store)
        gone, stays = sorted(all_runs(store), key=lambda record: record.method == "fine-tune")
        shutil.rmtree(store / "runs" / gone.key)
        found = find_unused(store)
        assert sorted(one.path.partition("/")[0] for one in found) == ["outputs", "steps"]
        assert {one.path for one in found} >= {gone.files["after"].rpartition("/")[0]}
        sizes = [sum(p.stat().st_size for p in (store / one.path).iterdir()) for one in found]
        assert [one.bytes for one in found] == sizes
        assert entries(store) == before - {f"runs/{gone.key}"}, "looking removes nothing"
        assert remove_unused(store, found) == found
        assert entries(store) == before - {f"runs/{gone.key}"} - {one.path for one in found}
        assert check_store(store).faults == ()
        assert audit_run(store, stays.key)
        assert find_unused(store) == []
        ended = run_grid(plans, store)
        assert ended.taken == ("l1-sparse",)

    def test_steps_that_were_made_anew_are_needed_by_the_old_run(self, store, plans):
        stripped(store, "runs")
        for place in store.glob("steps/*"):
            shutil.rmtree(place)
        run_grid(plans, store)
        assert find_unused(store) == []

    def test_what_an_audit_made_stays_with_its_run(self, store):
        record = all_runs(store)[0]
        shelf = Store(store)
        shelf.put("steps", "b", {"meta.json": b'{"trace": {"seed": 2000001}}'})
        shelf.put("banks", "c", {"chunk.json": b"{}"})
        told = json.dumps({"run": record.key}).encode()
        shelf.put("audits", "a", {FINDINGS: told}, [("steps", "b"), ("banks", "c")])
        assert find_unused(store) == []
        stripped(store, "audits")  # it does not say what it used: models with the seeds of a bank stay
        assert find_unused(store) == []
        shutil.rmtree(store / "runs" / record.key)
        assert {"steps/b", "banks/c", "audits/a"} <= {one.path for one in find_unused(store)}

    def test_a_checkpoint_stays_until_its_step_is_finished(self, store, caplog):
        shelf = Store(store)
        done = shelf.keys("steps")[0]
        for key in (f"{done}.0.000001", "a.0.000002", "a.1.000001"):
            shelf.put("checkpoints", key, {"x": bytes(1000)})
        (one,) = find_unused(store)
        assert one.path == f"checkpoints/{done}.0.000001"
        size = sum(file.stat().st_size for file in store.glob("checkpoints/a.*/*"))
        (line,) = caplog.messages
        assert line == (
            f"2 checkpoints of steps that are not finished, {size:,} bytes, will stay: the same command goes "
            f'on from there; to give them up, delete "{store / "checkpoints"}"'
        )
        caplog.clear()
        everything = [Unused(f"checkpoints/{key}", 0) for key in shelf.keys("checkpoints")]
        del shelf  # lets the store go
        assert [gone.path for gone in remove_unused(store, everything)] == [one.path]
        assert sorted(Store(store).keys("checkpoints")) == ["a.0.000002", "a.1.000001"]
        assert not caplog.messages

    def test_folders_of_killed_processes_go(self, store):
        left = store / "steps" / f".writing-{os.uname().nodename}-{killed()}-a_1"
        (left / "entry").mkdir(parents=True)
        (left / "entry" / "x").write_bytes(bytes(1000))
        (one,) = find_unused(store)
        assert one == (str(left.relative_to(store)), 1000)
        remove_unused(store, [one])
        assert not left.exists()
        assert not list(store.rglob(".writing-*"))

    def test_what_a_run_has_come_to_need_since_stays(self, store, tmp_path, plans):
        aside = tmp_path / "runs"
        (store / "runs").rename(aside)
        found = find_unused(store)
        assert len(found) == 9
        aside.rename(store / "runs")
        assert remove_unused(store, found) == []
        assert run_grid(plans, store).taken == ()

    def test_nothing_goes_while_a_living_process_holds_the_store(self, store):
        shutil.rmtree(store / "runs")
        key = next(store.glob("steps/*")).name
        code = (
            "import sys; from pathlib import Path; from secateur.lab.store import Store\n"
            "store = Store(Path(sys.argv[1])); store.has('steps', sys.argv[2]); print('held', flush=True)\n"
            "sys.stdin.read()"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        holder = subprocess.Popen([sys.executable, "-c", code, str(store), key], **pipes)
        try:
            assert holder.stdout.readline() == "held\n"
            before, found = entries(store), find_unused(store)
            with pytest.raises(StoreError, match=r"a living process holds it.*nothing was removed"):
                remove_unused(store, found)
            assert entries(store) == before
        finally:
            holder.kill()
            holder.communicate()
        assert remove_unused(store, found) == found
        assert entries(store) == set()

    def test_a_process_that_comes_while_it_tidies_waits(self, store):
        with Store(store).alone():
            handle = os.open(store, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.close(handle)
        assert Store(store).has("steps", next(store.glob("steps/*")).name)

    def test_where_a_run_cannot_be_read_nothing_is_removed(self, store):
        flip(next(store.glob("runs/*/record.json")))
        before = entries(store)
        for ask in (lambda: find_unused(store), lambda: remove_unused(store, [])):
            with pytest.raises(StoreError, match="expected runs that can be read, to know what they need"):
                ask()
        assert entries(store) == before


class TestTakingOut:
    def test_a_run_opens_without_secateur_and_its_plan_is_that_run(self, store, tmp_path):
        record = all_runs(store)[0]
        folder = tmp_path / "out"
        files = export_run(store, record.key[:12], folder)
        assert sorted(path.name for path in files) == ["model.safetensors", "plan.toml", "record.json"]
        assert sorted(folder.iterdir()) == sorted(files)
        assert digest((folder / "model.safetensors").read_bytes()) == record.hashes["weights"]
        assert all(array.size for array in load_file(folder / "model.safetensors").values())
        assert json.loads((folder / "record.json").read_text())["key"] == record.key
        assert tomllib.loads((folder / "plan.toml").read_text()) == record.plan
        (plan,) = expand(load(folder / "plan.toml"))
        assert run_plan(plan, store).key == record.key

    def test_nothing_is_replaced(self, store, tmp_path):
        (tmp_path / "mine").write_text("mine")
        for there in (tmp_path, tmp_path / "mine"):
            with pytest.raises(UsageError, match="expected a folder that is not there yet"):
                export_run(store, all_runs(store)[0].key, there)
        assert (tmp_path / "mine").read_text() == "mine"

    def test_damage_is_not_taken_out(self, store, tmp_path):
        flip(next(store.glob("runs/*/model.safetensors")))
        faulty = check_store(store).faults[0].where.partition("/")[2]
        with pytest.raises(StoreError, match="is not what was written"):
            export_run(store, faulty, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_folder_in_none_is_refused(self, store, tmp_path):
        with pytest.raises(StoreError, match=r"cannot write .*No such file or directory"):
            export_run(store, all_runs(store)[0].key, tmp_path / "no" / "out")


class TestOnAFullDisk:
    """No file may grow beyond so many bytes: a write breaks off in the middle, as on a disk that is full."""

    @staticmethod
    def full(code, most, *words):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(
            command,
            preexec_fn=limit,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def test_a_run_breaks_off_in_one_sentence_and_goes_on_to_the_same_bits(self, finished, store, tmp_path):
        code = "import sys; from secateur.cli import main; sys.argv[0] = 'secateur'; main()"
        fresh, plan = tmp_path / "fresh", finished / "plan.toml"
        most = max(path.stat().st_size for path in store.glob("steps/*/state.safetensors")) - 1
        ended = self.full(code, most, "grid", plan, "--store", fresh)
        assert ended.returncode == 4, ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stderr.startswith("secateur: cannot write ")
        assert "(File too large): free or unlock the disk" in ended.stderr
        assert not list(fresh.rglob(".writing-*"))
        assert all((place / SUMS).is_file() for place in fresh.glob("*/*") if place.is_dir())
        assert check_store(fresh).faults == ()
        ended = run_grid(expand(load(plan)), fresh)
        assert not ended.failures
        assert tensors(fresh) == tensors(store)

    def test_an_export_breaks_off_and_leaves_nothing(self, store, tmp_path):
        code = (
            "import sys; from pathlib import Path; from secateur.lab import export_run\n"
            "export_run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))"
        )
        (tmp_path / "place").mkdir()
        ended = self.full(code, 500, store, all_runs(store)[0].key, tmp_path / "place" / "out")
        assert "secateur.errors.StoreError: cannot write" in ended.stderr
        assert "File too large" in ended.stderr
        assert list((tmp_path / "place").iterdir()) == []

    def test_room_can_be_made_where_not_a_byte_may_be_written(self, store):
        shutil.rmtree(store / "runs")
        code = (
            "import sys; from pathlib import Path; from secateur.lab import find_unused, remove_unused\n"
            "at = Path(sys.argv[1]); print(len(remove_unused(at, find_unused(at))))"
        )
        # bytes on a pipe are not bytes of a file
        ended = self.full(code, 0, store)
        assert ended.stdout == "9\n", ended.stderr
        assert entries(store) == set()
