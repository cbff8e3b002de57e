"""``secateur tune``, as a user calls it."""

import json
import tomllib

import pytest

from secateur.lab import to_toml


@pytest.fixture
def tiny(tiny):
    """With a holdout: trials are scored by it."""
    tiny["data"]["holdout"] = 0.1
    return tiny


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def file(tiny, tmp_path):
    tiny["tune"] = {"trials": 3, "unlearn.lr": [0.01, 0.3]}
    (tmp_path / "plan.toml").write_text(to_toml(tiny))
    return tmp_path / "plan.toml"


def test_the_command_tunes_writes_and_the_rest_is_a_run(cli, file, store):
    best = file.with_name("best.toml")
    ran = cli("tune", file, "--store", store, "--output", best)
    assert ran.code == 0
    assert "fine-tune of class 3: tuned on a surrogate, class " in ran.out
    assert " steps were taken now, the others were in the store" in ran.out
    assert f"wrote {best}: secateur run {best}" in ran.err
    told = cli("tune", file, "--store", store, "--json")
    (one,) = json.loads(told.out)
    found = one["trials"][one["best"] - 1]
    assert found["score"] == min(trial["score"] for trial in one["trials"])
    assert tomllib.loads(best.read_text())["step"][1]["lr"] == found["knobs"]["unlearn.lr"]
    assert f"best: unlearn.lr = {found['knobs']['unlearn.lr']}\n" in ran.out
    assert one["taken"] == []
    assert cli("run", best, "--store", store).code == 0


def test_a_dry_run_of_the_command(cli, file, store):
    ran = cli("tune", file, "--store", store, "--dry-run", "--set", "tune.unlearn.lr=[0.1,0.2,0.3]")
    assert ran.code == 0
    assert "nothing was trained or written" in ran.out
    assert not store.exists()


def test_the_command_refuses_what_cannot_be(cli, file, store):
    assert "is the plan itself, whose [tune] would be lost" in cli("tune", file, "-o", file).err
    assert "name a file, in a folder that exists" in cli("tune", file, "-o", file / "x.toml").err
    assert "[tune] chooses it" in cli("tune", file, "--set", "unlearn.lr=1").err
    for command in ("run", "grid"):
        ran = cli(command, file, "--store", store)
        assert ran.code == 2
        assert "has [tune], so its knobs are still to be chosen" in ran.err
    assert not store.exists()


def test_where_every_trial_fails_the_command_does(cli, file, store):
    best = file.with_name("best.toml")
    ran = cli("tune", file, "--store", store, "-o", best, "--set", "tune.unlearn.lr=[1e12,1e13]")
    assert ran.code == 5
    assert "got none for fine-tune of class 3" in ran.err
    assert not best.exists()


def test_a_setting_that_loses_too_much_is_marked_and_not_written(cli, file, store):
    best = file.with_name("best.toml")
    learn = ["model.width=4", "train.epochs=12", "train.lr=0.2", "train.schedule=one-cycle"]
    sets = [f"--set={told}" for told in (*learn, "tune.allowed_loss={RA=5.0}")]
    ran = cli("tune", file, "--store", store, "-o", best, *sets, "--set=tune.unlearn.lr=[1e-9,2.0]")
    assert ran.code == 0
    assert "best: unlearn.lr = 1e-09" in ran.out
    assert "! further below the retrains than allowed (RA 5 points): not chosen" in ran.out
    assert best.read_text().startswith(
        "# knobs chosen by secateur tune: 3 trials by surrogate, seed 0; loss allowed: RA 5 points\n"
    )
    best.unlink()
    ran = cli("tune", file, "--store", store, "-o", best, *sets, "--set=tune.unlearn.lr=[2.0]")
    assert ran.code == 5
    assert "expected a trial that loses no more than allowed_loss (RA 5 points), got none for " in ran.err
    assert not best.exists()
