"""``secateur store``, as a user calls it."""

import json
import time
import tomllib

import pytest
from safetensors.numpy import load_file

from secateur.lab import expand, load, run_plan

from .test_checkpoints import Watched
from .test_execute import flip


@pytest.fixture
def plan(tmp_path, text, monkeypatch):
    (tmp_path / "plan.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def key(cli, plan):
    return json.loads(cli("run", "plan.toml", "--json").out)["key"]


def test_check_tells_what_there_is_and_every_fault(cli, plan, key):
    told = cli("store", "check")
    assert told.code == 0
    rows = [line.split() for line in told.out.splitlines()]
    assert rows[0] == ["shelf", "entries", "files", "size", "faults"]
    assert [row[:3] + row[-1:] for row in rows[1:]] == [
        ["steps", "2", "6", "0"], ["outputs", "2", "4", "0"], ["runs", "1", "4", "0"],
        ["splits", "1", "2", "0"], ["banks", "0", "0", "0"], ["audits", "0", "0", "0"],
        ["checkpoints", "0", "0", "0"],
    ]  # fmt: skip
    path = next(plan.glob(".secateur/steps/*/state.safetensors"))
    flip(path)
    told = cli("store", "check")
    assert told.code == 1
    line = told.out.splitlines()[-1]
    shown = path.relative_to(plan)
    assert line.startswith(f'"{shown}" is not what was written (its checksum differs): delete the folder')
    found = json.loads(cli("store", "check", "--json").out)
    assert found["shelves"][0]["entries"] == 2
    assert found["faults"] == [{"where": f"steps/{path.parent.name}", "what": line}]


def test_a_flipped_bit_is_told_in_one_line_and_made_anew(plan, key, command):
    path = next(plan.glob(".secateur/runs/*/model.safetensors"))
    whole = path.read_bytes()
    flip(path)
    process = command("run", "plan.toml", cwd=plan)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"run {key[:12]}:" in out
    assert err == (
        f'"{path.relative_to(plan)}" is not what was written (its checksum differs): the entry was removed, '
        "and what it held is made anew\n"
    )
    assert path.read_bytes() == whole


def test_gc_shows_first_and_removes_when_told(cli, plan, key):
    told = cli("store", "gc")
    assert told.out == "every entry is needed by a run, and nothing was left by killed processes\n"
    (other,) = {json.loads(cli("run", "plan.toml", "--json", "--set", "unlearn.epochs=2").out)["key"]} - {key}
    for path in (plan / ".secateur/runs" / other).iterdir():
        path.unlink()
    (plan / ".secateur/runs" / other).rmdir()
    found = json.loads(cli("store", "gc", "--json").out)
    assert found["removed"] == []
    assert {one["path"].partition("/")[0] for one in found["unused"]} == {"steps", "outputs"}
    size = sum(one["bytes"] for one in found["unused"])
    told = cli("store", "gc")
    assert told.code == 0
    assert "in all 2 entries, " in told.out
    assert f"({size:,} bytes)" in told.out
    assert told.err == "nothing was removed: say --yes to remove this\n"
    assert json.loads(cli("store", "gc", "--json").out) == found
    told = cli("store", "gc", "--yes")
    assert told.code == 0
    assert told.err.startswith("removed 2 entries, ")
    assert json.loads(cli("store", "gc", "--json").out) == {"unused": [], "removed": []}
    assert cli("store", "check").code == 0


@pytest.mark.slow
def test_gc_leaves_the_training_of_a_run_that_was_taken_away(plan, text, command):
    (plan / "plan.toml").write_text(text.replace("epochs = 1", "epochs = 400", 1))
    process = command("run", "plan.toml", "--checkpoint", "0", cwd=plan)
    until = time.monotonic() + 120
    while not list(plan.glob(".secateur/checkpoints/*.00001?/sums.json")) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.terminate()  # as a scheduler does
    process.communicate(timeout=60)
    kept = sorted(plan.glob(".secateur/checkpoints/*"))
    process = command("store", "gc", "--yes", cwd=plan)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "every entry is needed by a run, and nothing was left by killed processes\n"
    assert err.startswith(f"{len(kept)} checkpoint")
    assert err.endswith(
        'the same command goes on from there; to give them up, delete ".secateur/checkpoints"\n'
    )
    assert kept
    assert sorted(plan.glob(".secateur/checkpoints/*")) == kept
    done = json.loads((kept[-1] / "about.json").read_text())["done"]
    bars = Watched()
    run_plan(expand(load(plan / "plan.toml"))[0], plan / ".secateur", bars)
    assert bars.first["train"] == done > 0


def test_export_writes_plain_files(cli, plan, key):
    told = cli("store", "export", key[:10], "out")
    assert told.code == 0
    assert sorted(told.out.split()) == ["out/model.safetensors", "out/plan.toml", "out/record.json"]
    assert load_file("out/model.safetensors")
    assert tomllib.loads((plan / "out/plan.toml").read_text()) == tomllib.loads(
        (plan / "plan.toml").read_text()
    )
    assert json.loads((plan / "out/record.json").read_text())["key"] == key
    by_folder = cli("store", "export", f".secateur/runs/{key}", "again", "--json")
    assert sorted(json.loads(by_folder.out)) == [
        path.replace("out/", "again/") for path in sorted(told.out.split())
    ]
    again = cli("store", "export", key, "out")
    assert (again.code, again.err.startswith("secateur: expected a folder that is not there yet")) == (
        2,
        True,
    )


def test_without_a_word_it_tells_its_words(cli):
    told = cli("store", "--help")
    assert told.code == 0
    assert all(f" {word} " in told.out for word in ("check", "gc", "export"))
    assert "Traceback" not in cli("store").err
