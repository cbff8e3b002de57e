"""Ctrl-C ends in a sentence, loses nothing that was finished, and the same command goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from secateur.record import Record


def wait_for(process, enough):
    until = time.monotonic() + 120
    while not enough() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)


@pytest.mark.parametrize(
    "moment", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_ctrl_c_stops_in_a_sentence_and_the_same_command_goes_on(
    command, cli, tmp_path, text, monkeypatch, moment
):
    axes = '[grid]\nseed = [0, 1]\n"unlearn.use" = ["retrain", "fine-tune"]\n"unlearn.epochs" = [4]\n'
    (tmp_path / "plan.toml").write_text(text.replace("test = 0.8", "test = 0.6") + axes)
    store = tmp_path / ".secateur"
    process = command("grid", "plan.toml", "--json", cwd=tmp_path)
    wait_for(process, lambda: len(list(store.glob("steps/*/sums.json"))) >= moment)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert err.strip().split("\n") == [
        "secateur: stopped; what was finished is in the store, and the same command goes on from there"
    ]
    # at worst an empty folder, where the signal fell into its removal
    assert not list(store.glob("*/.writing-*/**/*"))
    # a stopped process may leave its lock behind, and the next one takes that away
    lasting = (p for p in store.rglob("*") if p.is_file() and p.parent.name != "locks")
    finished = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in lasting}
    steps = len(list(store.glob("steps/*")))
    assert moment <= steps < 2 * 3
    monkeypatch.chdir(tmp_path)
    told = cli("grid", "plan.toml", "--json")
    assert told.code == 0
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in finished} == finished
    assert not list(store.rglob(".writing-*"))
    assert len(list(store.glob("steps/*"))) == 2 * 3
    assert len([Record.from_json(p.read_text()) for p in store.glob("runs/*/record.json")]) == 4


@pytest.mark.slow
def test_ctrl_c_in_the_first_step(command, tmp_path, text):
    (tmp_path / "plan.toml").write_text(text.replace("epochs = 1", "epochs = 5000"))
    process = command("run", "plan.toml", cwd=tmp_path)
    wait_for(process, lambda: (tmp_path / ".secateur").exists())
    time.sleep(2)  # torch imports more at its first step; Python can lose a Ctrl-C inside an import
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("secateur: stopped; ")
    assert "Traceback" not in err
    assert list(Path(tmp_path, ".secateur").rglob("*")) in ([], [tmp_path / ".secateur" / "steps"])
