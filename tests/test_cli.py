"""The command line: every command, for people and for programs, with exit codes that mean something."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import secateur
from secateur import __version__, audits, steps
from secateur.record import Record

from . import plans

cli, command, text = plans.cli, plans.command, plans.text


@pytest.fixture
def plan(tmp_path, text, monkeypatch):
    """The tiny plan in a working directory of its own."""
    (tmp_path / "plan.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "plan.toml"


def test_help_names_every_command(cli):
    told = cli("--help")
    assert told.code == 0
    for name in ("run", "grid", "audit", "report", "methods", "card", "init", "doctor"):
        assert f"\n  {name} " in told.out or f" {name} " in told.out
        assert cli(name, "--help").code == 0


def test_run_prints_findings_and_where_things_lie(cli, plan):
    told = cli("run", "plan.toml")
    assert told.code == 0
    assert told.out.startswith("accuracy\n  UA ")
    record_at = Path(told.out.split("record ")[1].split("\n")[0])
    assert record_at.parent.parent == Path(".secateur/runs")
    record = Record.from_json(record_at.read_text())
    assert f"run {record.key[:12]}:" in told.out
    weights = Path(told.out.split("unlearned weights: ")[1].strip())
    assert weights == Path(".secateur") / record.files["weights"]
    assert weights.is_file()


def test_run_for_programs(cli, plan, tmp_path):
    told = cli(
        "run", "plan.toml", "--json", "--store", "elsewhere", "--set", "seed=4", "--report", "page.html"
    )
    assert told.code == 0
    record = Record.from_json(told.out)
    assert record.run["seed"] == 4
    assert (tmp_path / "elsewhere" / "runs" / record.key / "record.json").read_text() == record.to_json()
    assert (tmp_path / "page.html").read_text().lstrip().startswith("<!")
    assert told.err == "report: page.html\n"


def test_a_dry_run_writes_nothing(cli, plan, tmp_path):
    told = cli("run", plan, "--dry-run")
    assert told.code == 0
    assert told.out.split("\n")[1].split()[:4] == ["train", "1", "0", "6"]
    assert "nothing was trained or written" in told.out
    found = json.loads(cli("grid", plan, "--dry-run", "--json", "--set", "grid.seed=[0,1]").out)
    assert [(one["step"], one["times"], one["stored"], one["updates"]) for one in found] == [
        ("train", 2, 0, 12), ("fine-tune", 2, 0, 12),
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.toml"]


def test_a_grid_is_a_table_and_rows_for_programs(cli, plan):
    axes = [
        "--set",
        'grid.unlearn=[{use="fine-tune", epochs=1}, {use="retrain", epochs=1}]',
        "--set",
        "grid.seed=[0, 1]",
    ]
    told = cli("grid", plan, *axes)
    assert told.code == 0
    assert "class 3" in told.out
    assert {"fine-tune", "retrain"} <= set(told.out.split())
    rows = json.loads(cli("grid", plan, *axes, "--json").out)
    assert {row["method"] for row in rows} >= {"fine-tune", "retrain"}


def test_a_grid_tells_its_failures_and_finishes_the_rest(cli, plan):
    told = cli("grid", plan, "--set", "grid.train.lr=[0.1, 1e30, 0.2]")
    assert told.code == 5
    (line,) = told.err.strip().split("\n")
    assert line.startswith("secateur: run 2 of 3 failed: expected a finite loss, got ")
    assert line.endswith('(in the step "train")')
    assert "fine-tune" in told.out
    assert len(list(Path(".secateur/runs").iterdir())) == 2


def test_audit_and_report_read_what_runs_left(cli, plan, tmp_path):
    record = Record.from_json(cli("run", plan, "--json").out)
    again = json.loads(cli("audit", record.key[:10], "--use", "accuracy", "--json").out)
    assert again == json.loads(record.to_json())["findings"]
    every = cli("audit", record.key)
    assert every.code == 0
    told = {name for name in audits.shelf if any(line.startswith(name) for line in every.out.split("\n"))}
    assert told == set(audits.shelf) - {"oracle-free", "attack-success"}
    assert every.err == "left out, since the run has no rows that they need: attack-success, oracle-free\n"
    assert cli("audit", record.key, "--use", "oracle-free").code == 3
    told = cli("report", "-o", "p.html")
    assert told.code == 0
    assert "fine-tune" in told.out
    assert told.err == "report: p.html\n"
    assert (tmp_path / "p.html").is_file()
    rows = json.loads(cli("report", record.key[:12], "--json").out)
    assert "fine-tune" in {row["method"] for row in rows}


def test_a_report_of_one_plan_among_others(cli, plan):
    assert cli("grid", plan, "--set", "grid.seed=[0, 1]").code == 0
    assert cli("run", plan, "--set", "seed=7").code == 0
    told = cli("report", "--plan", plan, "--set", "grid.seed=[0, 1, 2]", "--json")
    assert told.err.startswith(f"2 of the 3 runs of {plan} are in the store\n")
    (row,) = [row for row in json.loads(told.out) if row["method"] == "fine-tune"]
    assert row["seeds"] == [0, 1]
    for wrong, why in (
        (("--set", "seed=1"), "--set changes a plan"),
        (("abc", "--plan", plan), "got both"),
        (("--plan", plan, "--set", "seed=9"), "found none: run it first"),
    ):
        told = cli("report", *wrong, "-o", "none.html")
        assert told.code == 3 if "none" in why else told.code
        assert why in told.err
        assert len(told.err.strip().split("\n")) == 1
        assert not Path("none.html").exists()


def test_methods_and_cards_tell_the_whole_shelf(cli):
    told = cli("methods")
    assert told.code == 0
    rows = json.loads(cli("methods", "--json").out)
    assert [row["name"] for row in rows] == [*steps.shelf, *audits.shelf]
    for row in rows:
        assert row["name"] in told.out
        shown = cli("card", row["name"])
        assert shown.code == 0
        assert row["name"] in shown.out
        card = json.loads(cli("card", row["name"], "--json").out)
        assert card["summary"] == row["summary"]
        assert all(knob["name"] in shown.out and knob["help"] for knob in card["knobs"])


def test_init_writes_a_plan_that_runs(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = cli("init")
    assert (told.code, told.out) == (0, 'wrote plan.toml; now "secateur run plan.toml"\n')
    plan = tomllib.loads(Path("plan.toml").read_text())
    small = ["train.epochs=1", "unlearn.epochs=1", "model.width=2", "data.test=0.8"]
    told = cli("run", "plan.toml", *(word for one in small for word in ("--set", one)))
    assert told.code == 0
    assert [f"\n{audit['use']}" in f"\n{told.out}" for audit in plan["audit"]] == [True, True, True]


def test_doctor_says_what_stands_in_the_way(cli, tmp_path):
    told = cli("doctor", "--store", tmp_path / "store")
    assert told.code == 0
    checks = {
        check["what"]: check for check in json.loads(cli("doctor", "--json", "--store", tmp_path / "s").out)
    }
    assert checks["secateur"]["found"] == __version__
    (tmp_path / "file").touch()
    told = cli("doctor", "--store", tmp_path / "file")
    assert told.code == 1
    assert "cannot be written" in told.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "Missing argument 'plan'"),
        (["run", "plan.toml", "--stor", "x"], "No such option"),
        (["rnu"], "No such command 'rnu'"),
        (["card"], "Missing argument 'name'"),
        (["run", "plan.toml", "--set"], "requires an argument"),
    ],
)
def test_flags_that_are_none(cli, words, says):
    told = cli(*words)
    assert told.code == 2
    assert says.lower() in told.err.lower()
    assert told.err.startswith("secateur: ")
    assert told.out == ""


def test_brackets_in_messages_are_printed_as_they_are(cli, tmp_path):
    told = cli("run", tmp_path / "[bold]odd[/bold].toml")
    assert told.code == 2
    assert "[bold]odd[/bold].toml" in told.err


def test_the_module_is_the_command(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "secateur", "init", "p.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == 'wrote p.toml; now "secateur run p.toml"\n'


def test_a_reader_that_goes_away_is_no_error(command):
    process = command("card", "accuracy", "--json")
    process.stdout.close()
    assert process.wait() in (0, 1)
    assert "Traceback" not in process.stderr.read()


def test_version(cli):
    ran = cli("--version")
    assert (ran.code, ran.out.strip()) == (0, f"secateur {secateur.__version__}")


def test_audit_takes_the_folder_of_a_run(cli, tmp_path, text):
    plan, store = tmp_path / "plan.toml", tmp_path / "store"
    plan.write_text(text)
    assert cli("run", plan, "--store", store).code == 0
    [folder] = (store / "runs").iterdir()
    by_folder = cli("audit", folder, "--use", "accuracy")
    assert by_folder.code == 0, by_folder.err
    assert by_folder.out == cli("audit", folder.name, "--store", store, "--use", "accuracy").out


def test_audit_writes_a_page(cli, plan, tmp_path):
    record = Record.from_json(cli("run", plan, "--json").out)
    told = cli("audit", record.key[:10], "--report", "page.html")
    assert told.code == 0
    assert told.err.endswith("report: page.html\n")
    page = (tmp_path / "page.html").read_text()
    assert "audit of one run" in page
    assert all(f">{name}" in page for name in set(audits.shelf) - {"oracle-free", "attack-success"})
    assert cli("audit", record.key, "--report", "missing/page.html").code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [".secateur", "page.html", "plan.toml"]
