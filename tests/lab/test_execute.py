"""Runs: what is shared, what a second run does again, and what is believed."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from secateur.errors import NotFinite, StepError, StoreError
from secateur.lab import expand, run_grid, run_plan
from secateur.lab.execute import Lab
from secateur.lab.freeze import load_weights
from secateur.lab.plan import FIRST_REFERENCE_SEED
from secateur.lab.store import Store, digest
from secateur.record import plain
from secateur.zoo import small_cnn

BYTES = ("state.safetensors", "outputs.safetensors", "model.safetensors")


def lab(folder):
    return Lab(Store(folder))


def run(table, folder):
    """Run a plan in a new lab, as another process would."""
    (plan,) = expand(table)
    made = lab(folder)
    return made.run(plan), made.taken


def told(record):
    """A record without what a clock says."""
    data = plain(record)
    del data["created"]
    for step in data["steps"]:
        del step["seconds"], step["peak_bytes"], step["made"]
    for reference in data["references"]:
        del reference["seconds"]
    return data


def tensors(folder):
    """Every file of tensors below a store, by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in BYTES}


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def pruned(tiny):
    """Train with a mark, prune and rewind, unlearn."""
    tiny["step"][0]["keep"] = [0]
    tiny["step"].insert(1, {"use": "magnitude", "as": "prune", "sparsity": 0.7, "rewind": "epoch-0"})
    return tiny


# --- what is shared ---


def test_all_methods_and_all_forget_sets_share_one_training(tiny, store):
    tiny["grid"] = {
        "data.forget": [{"how": "class", "classes": [3]}, {"how": "random", "share": 0.1}],
        "unlearn": [
            {"use": u, "epochs": 1} for u in ("retrain", "fine-tune", "gradient-ascent", "l1-sparse")
        ],
    }
    ended = run_grid(expand(tiny), store)
    assert not ended.failures
    assert sorted(ended.taken) == sorted(
        ["train"] + 2 * ["retrain", "fine-tune", "gradient-ascent", "l1-sparse"]
    )
    assert len({record.key for record in ended.records}) == 8


def test_references_of_a_dense_model_are_shared_by_all_seeds_and_methods(tiny, store):
    tiny["audit"] = [{"use": "retrain-gap"}, {"use": "accuracy"}]
    tiny["grid"] = {
        "seed": [0, 1, 2],
        "unlearn": [{"use": "fine-tune", "epochs": 1}, {"use": "retrain", "epochs": 1}],
    }
    ended = run_grid(expand(tiny), store)
    assert not ended.failures
    # 5 references, and the three retrains that are candidates: no candidate is its own yardstick
    assert [ended.taken.count(use) for use in ("train", "fine-tune", "retrain")] == [3, 3, 5 + 3]
    assert len({tuple(r["key"] for r in record.references) for record in ended.records}) == 1
    seeds = [r["seed"] for r in ended.records[0].references]
    assert seeds == list(range(FIRST_REFERENCE_SEED, FIRST_REFERENCE_SEED + 5))
    keys = {(store / path).parent.name for path in ended.records[1].files.values()}
    assert len(keys) == 8  # before, after, five references, weights: nobody is compared with itself


def test_references_are_keyed_by_the_masks(pruned, store):
    pruned["audit"] = [{"use": "retrain-gap", "references": 2}]
    pruned["grid"] = {"seed": [0, 1], "prune.sparsity": [0.0, 0.7]}
    ended = run_grid(expand(pruned), store)
    assert not ended.failures
    # two for the dense model that both seeds share, two for the masks of each seed
    assert ended.taken.count("retrain") == 2 + 2 * 2
    assert ended.taken.count("train") == 2


def test_what_came_before_a_retrain_does_not_matter(tiny, store):
    tiny["step"][1] = {"use": "retrain", "as": "unlearn", "epochs": 1}
    tiny["grid"] = {"train.lr": [0.1, 0.2]}
    ended = run_grid(expand(tiny), store)
    assert ended.taken == ("train", "retrain", "train")
    first, other = ended.records
    assert first.files["after"] == other.files["after"]
    assert first.files["before"] != other.files["before"]
    # and it is so in bits: taken after the other training, it is the same
    _, taken = run(tiny | {"grid": {"train.lr": [0.2]}}, store.with_name("other"))
    assert taken == ["train", "retrain"]
    there, here = tensors(store.with_name("other")), tensors(store)
    assert there.keys() < here.keys()
    assert all(here[name] == data for name, data in there.items())


def test_a_step_may_have_a_seed_of_its_own(tiny, store):
    tiny["grid"] = {"unlearn.seed": [0, 1, 2]}
    ended = run_grid(expand(tiny), store)
    assert ended.taken == ("train", "fine-tune", "fine-tune", "fine-tune")
    assert [[step.seed for step in record.steps] for record in ended.records] == [[0, 0], [0, 1], [0, 2]]
    assert len({record.hashes["weights"] for record in ended.records}) == 3


def test_other_test_rows_take_no_step_again(tiny, store, tmp_path, monkeypatch):
    (tmp_path / "halved.py").write_text(
        "from secateur.zoo import Collection, digits\n"
        "def some(*, count: int):\n"
        "    made = digits(test=0.8)\n"
        "    return Collection(train=made.train, test=tuple(part[:count] for part in made.test))\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    tiny["data"] = {"use": "halved:some", "forget": tiny["data"]["forget"]}
    tiny["grid"] = {"data.count": [300, 400]}
    ended = run_grid(expand(tiny), store)
    assert ended.taken == ("train", "fine-tune")
    first, other = ended.records
    assert (first.split["rows"]["test"], other.split["rows"]["test"]) == (300, 400)
    assert first.key != other.key
    assert first.hashes["split"] != other.hashes["split"]
    assert len(list(store.glob("outputs/*"))) == 4


def test_another_audit_takes_no_step_again(tiny, store):
    run(tiny, store)
    before = tensors(store)
    tiny["audit"] = [{"use": "accuracy", "level": 0.5}, {"use": "mia-efficacy"}]
    record, taken = run(tiny, store)
    assert taken == []
    assert [finding.audit for finding in record.findings] == ["accuracy", "mia-efficacy"]
    after = tensors(store)
    assert {name for name in after if name not in before} == {f"runs/{record.key}/model.safetensors"}


# --- again ---


def test_a_second_run_takes_no_step(pruned, store):
    first, taken = run(pruned, store)
    assert taken == ["train", "magnitude", "fine-tune"]
    times = {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}
    again, taken = run(pruned, store)
    assert taken == []
    assert again == first
    assert times == {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "lost", [["steps"], ["steps", "outputs"], ["steps", "outputs", "runs"], ["outputs", "runs"]]
)
def test_only_what_is_lost_is_made_again(pruned, store, lost):
    first, _ = run(pruned, store)
    before = tensors(store)
    places = {"outputs": store / first.files["after"], "runs": store / first.files["weights"]}
    last = max(store.glob("steps/*/meta.json"), key=lambda p: json.loads(p.read_text())["depth"])
    places["steps"] = last
    for kind in lost:
        shutil.rmtree(places[kind].parent)
    again, taken = run(pruned, store)
    assert taken == (["fine-tune"] if "steps" in lost else [])
    assert told(again) == told(first)
    assert tensors(store) == before


def test_the_same_plan_gives_the_same_bytes_in_any_store(pruned, store):
    pruned["audit"] += [{"use": "mia-efficacy"}, {"use": "retrain-gap", "references": 1}]
    first, _ = run(pruned, store)
    other, _ = run(pruned, store.with_name("other"))
    assert told(first) == told(other)
    assert tensors(store) == tensors(store.with_name("other"))
    assert len(tensors(store)) == 4 + 3 + 1


def test_bits_do_not_depend_on_what_the_lab_had_at_hand(pruned, store):
    """States in memory and states from disk, in any order, are the same."""
    pruned["grid"] = {
        "unlearn": [{"use": u, "epochs": 1} for u in ("fine-tune", "gradient-ascent", "retrain")],
        # the same trained state, now before other rows to forget
        "data.forget": [{"how": "class", "classes": [3]}, {"how": "random", "count": 50}],
    }
    plans = expand(pruned)
    run_grid(plans, store)
    other = store.with_name("other")
    for plan in reversed(plans):
        run_plan(plan, other)
    assert tensors(store) == tensors(other)


def test_chance_lies_in_the_seed_alone(tiny, store):
    first, _ = run(tiny, store)
    torch.rand(3)
    other, _ = run(tiny | {"seed": 1}, store)
    assert first.hashes["weights"] != other.hashes["weights"]
    assert first.split == other.split


# --- what a run leaves behind ---


def test_the_record_tells_the_run(pruned, store):
    pruned["audit"] += [{"use": "retrain-gap", "references": 1}]
    record, _ = run(pruned, store)
    assert json.loads((store / "runs" / record.key / "record.json").read_text()) == plain(record)
    assert record.plan == pruned
    assert (record.request, record.method, record.unlearn) == ("class 3", "fine-tune", 2)
    assert [(s.step, s.label, s.depth) for s in record.steps] == [
        ("train", "train", 0), ("magnitude", "prune", 1), ("fine-tune", "unlearn", 2),
    ]  # fmt: skip
    rows = record.split["rows"]
    assert rows == {"forget": 37, "retain": 322, "test": 1438}
    assert [dict(s.drawn) for s in record.steps] == [{"pool": 359}, {}, {"retain": 322}]
    assert [finding.audit for finding in record.findings] == ["accuracy", "retrain-gap"]
    assert set(record.cards) == {"train", "magnitude", "fine-tune", "retrain", "accuracy", "retrain-gap"}
    assert record.run == {**record.run, "seed": 0, "threads": 1, "precision": "fp32", "device": "cpu"}
    assert record.run["torch"] == record.versions["torch"] == torch.__version__
    assert set(record.files) == {"weights", "before", "after", "retrain[0]"}
    assert all((store / path).is_file() for path in record.files.values())
    assert digest((store / record.files["weights"]).read_bytes()) == record.hashes["weights"]
    assert record.measures["sparsity.before"] == pytest.approx(record.measures["sparsity.after"])
    assert record.measures["distance"] > 0


def test_the_weights_load_into_the_plain_architecture(pruned, store):
    record, _ = run(pruned, store)
    model = load_weights(small_cnn(width=2), store / record.files["weights"])
    weights = [p for p in model.parameters() if p.ndim > 1]
    zeros, count = sum(int((p == 0).sum()) for p in weights), sum(p.numel() for p in weights)
    assert zeros >= round(0.7 * count)
    assert record.steps[-1].sparsity == zeros / count
    assert not any(bool(torch.signbit(p[p == 0]).any()) for p in weights)
    split = lab(store).ground(expand(pruned)[0]).split
    batch = next(iter(split["test"].once(batch=2000)))
    with torch.no_grad():
        hits = model.eval()(batch.x).argmax(1) == batch.y
    told_ = record.estimate("TA")
    assert told_ is not None
    kept = batch.y != 3  # forgotten, and left out of test
    assert told_.value == pytest.approx(float(hits[kept].float().mean()), abs=1e-6)


def test_no_residue_of_the_dense_weights_is_exported(pruned, store):
    record, _ = run(pruned, store)
    entries = {}
    for meta in store.glob("steps/*/meta.json"):
        entries[json.loads(meta.read_text())["depth"]] = safetensors.torch.load_file(
            meta.parent / "state.safetensors"
        )
    dense, cut, last = entries[1], entries[2], entries[3]
    masks = {name.removeprefix("mask/"): mask for name, mask in cut.items() if name.startswith("mask/")}
    assert masks
    gone = np.unique(np.concatenate([dense[f"model/{name}"][~mask].numpy() for name, mask in masks.items()]))
    started = np.unique(
        np.concatenate([dense[f"mark/epoch-0/weights/{name}"][~mask].numpy() for name, mask in masks.items()])
    )
    assert len(gone) > 100
    exported = safetensors.torch.load_file(store / record.files["weights"])
    assert exported.keys() == small_cnn(width=2).state_dict().keys()

    def holds(entry):
        floats = np.concatenate([
            value.numpy().ravel() for value in entry.values() if value.is_floating_point()
        ])
        return np.isin(floats, gone).sum(), np.isin(floats, started).sum()

    assert holds(exported) == (0, 0)
    # in the store, marks hold the dense weights on purpose, for rewinding, until unlearning drops them
    assert holds({name: value for name, value in cut.items() if name.startswith("model/")}) == (0, 0)
    assert holds(cut)[1] == len(started)
    assert holds(last) == (0, 0)
    assert not [name for name in last if name.startswith("mark/")]
    # no bytes outside the tensors either
    raw = (store / record.files["weights"]).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    assert len(raw) == 8 + size + sum(value.numel() * value.element_size() for value in exported.values())


# --- what is believed ---


def one_line(caplog, path):
    (said,) = [record.getMessage() for record in caplog.records if record.name == "secateur.store"]
    assert said.startswith(f'"{path}" is not what was written (its checksum differs): the entry was removed')
    assert "\n" not in said


@pytest.mark.parametrize("name", ["state.safetensors", "meta.json"])
def test_a_damaged_state_is_found_named_and_made_anew(tiny, store, caplog, name):
    run(tiny, store)
    whole = tensors(store)
    first = min(store.glob("steps/*/meta.json"), key=lambda p: json.loads(p.read_text())["depth"]).with_name(
        name
    )
    flip(first)
    other = tiny | {"step": [tiny["step"][0], {"use": "l1-sparse", "as": "unlearn", "epochs": 1}]}
    assert run(other, store)[1] == ["train", "l1-sparse"]
    one_line(caplog, first)
    assert whole.items() <= tensors(store).items()
    assert run(tiny, store)[1] == []


def test_damaged_outputs_are_found_named_and_made_anew(tiny, store, caplog):
    record, _ = run(tiny, store)
    whole = tensors(store)
    path = store / record.files["before"]
    flip(path)
    tiny["audit"] = [{"use": "mia-efficacy"}]
    assert run(tiny, store)[1] == []
    one_line(caplog, path)
    assert whole.items() <= tensors(store).items()


@pytest.mark.parametrize("name", ["record.json", "model.safetensors", "sums.json"])
def test_a_damaged_run_is_found_named_and_made_anew(tiny, store, caplog, name):
    first, _ = run(tiny, store)
    whole = tensors(store)
    path = only(store, f"runs/*/{name}")
    flip(path, at=10)
    again, taken = run(tiny, store)
    assert (told(again), taken) == (told(first), [])
    one_line(caplog, path if name != "sums.json" else path.with_name("record.json"))
    assert tensors(store) == whole


def test_what_is_damaged_again_at_once_is_refused(tiny, store, monkeypatch):
    run(tiny, store)
    flip(only(store, "runs/*/record.json"))
    monkeypatch.setattr(Store, "drop", lambda self, place: None)  # as a disk that keeps nothing
    with pytest.raises(StoreError, match="is not what was written") as caught:
        run(tiny, store)
    assert caught.value.exit_code == 4


def test_a_store_that_cannot_be_written_is_told_before_anything_is_trained(tiny, store):
    store.write_text("mine")
    made = lab(store)
    with pytest.raises(StoreError, match="cannot write"):
        made.run(expand(tiny)[0])
    assert made.taken == []
    assert store.read_text() == "mine"


# --- failures ---


def test_a_failure_does_not_stop_the_others_and_is_not_tried_again(tiny, store):
    tiny["grid"] = {
        "train.lr": [1e30, 0.1],
        "unlearn": [{"use": "fine-tune", "epochs": 1}, {"use": "retrain", "epochs": 1}],
    }
    ended = run_grid(expand(tiny), store)
    assert [number for number, _ in ended.failures] == [1, 2]
    (_, first), (_, second) = ended.failures
    assert isinstance(first, NotFinite)
    assert first is second
    assert first.__notes__ == ['in the step "train"']
    assert len(ended.records) == 2
    assert ended.taken == ("train", "fine-tune", "retrain")
    assert not list(store.rglob(".writing-*"))


def test_progress_is_told_by_label(pruned, store):
    class Heard:
        def __init__(self):
            self.labels = {}

        def bar(self, label, total):
            from contextlib import nullcontext

            self.labels[label] = [0, total]

            def advance(done):
                self.labels[label][0] += done

            return nullcontext(advance)

    heard = Heard()
    pruned["audit"] = [{"use": "retrain-gap", "references": 2}]
    run_grid(expand(pruned), store, heard)
    assert set(heard.labels) == {"runs", "train", "unlearn", "reference 1/2", "reference 2/2"}
    assert all(done == total for done, total in heard.labels.values())


# --- what else a run promises ---


def test_states_kept_in_memory_are_few(tiny, store):
    (plan,) = expand(tiny)
    made = lab(store)
    for seed in range(6):
        made.run(replace(plan, settings=replace(plan.settings, seed=seed)))
    assert len(made.taken) == 12
    assert len(made._states) <= 4


AUDIT = """
from dataclasses import dataclass
import secateur as sc

@dataclass(frozen=True, kw_only=True)
class Always:
    card = sc.Card(summary="Says one thing.", paper="none", data="retain")
    needs = sc.Needs(views=frozenset({"retain"}))
    def __call__(self, evidence, /):
        return sc.Finding(audit="always", estimates={}, caveats=("SAYS",))
"""


def test_an_audit_that_was_edited_judges_again(tmp_path, text, command):
    plan = tmp_path / "plan.toml"
    plan.write_text(text.replace('use = "accuracy"', 'use = "judged:Always"'))
    for said in ("one thing", "another"):
        (tmp_path / "judged.py").write_text(AUDIT.replace("SAYS", said))
        ran = command("run", plan, "--store", tmp_path / "store")
        out, err = ran.communicate(timeout=120)
        assert ran.returncode == 0, err
        assert f"note: {said}" in out
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 2


def test_a_record_binds_its_evidence(tmp_path, tiny):
    record, _ = run(tiny, tmp_path)
    for name, path in record.files.items():
        assert record.hashes[name] == hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
    assert all(step.made["hardware"] and step.made["created"] for step in record.steps)


FAILING = """
from dataclasses import dataclass
import secateur as sc

@dataclass(frozen=True, kw_only=True)
class Broken:
    card = sc.Card(summary="Fails.", paper="none", data="retain")
    reads = frozenset({"retain"})
    def __call__(self, state, run, /):
        raise RuntimeError("out of memory, say")
"""


def test_a_step_that_raises_anything_stops_no_other_run(tmp_path, tiny, monkeypatch):
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    tiny["grid"] = {"unlearn": [{"use": "failing:Broken"}, {"use": "fine-tune", "epochs": 1}]}
    ended = run_grid(expand(tiny), tmp_path / "store")
    assert [record.method for record in ended.records] == ["fine-tune"]
    [(number, error)] = ended.failures
    assert number == 1
    assert isinstance(error, StepError)
    assert "RuntimeError: out of memory, say" in str(error)
    assert "failing.py, line 10" in str(error)


def test_who_stands_where_is_kept_once_for_all_runs_of_a_split(tmp_path, tiny):
    record, _ = run(tiny, tmp_path)
    stored = json.loads((tmp_path / record.split["file"]).read_text())
    assert stored["hash"] == record.split["hash"]
    assert {name: len(rows) for name, rows in stored["rows"].items()} == record.split["rows"]
    split = Lab(Store(tmp_path)).ground(*expand(tiny)).split
    assert stored["rows"] == {name: rows.tolist() for name, rows in split.rows.items()}
    other, _ = run(tiny | {"seed": 1}, tmp_path)
    assert other.split == record.split
    assert len(list((tmp_path / "splits").iterdir())) == 1
