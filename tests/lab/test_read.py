"""Plans: plain values in, checked objects out, and every fault told at once with the nearest right name."""

import copy
import sys

import pytest

from secateur import audits, steps
from secateur.errors import PlanError
from secateur.lab.plan import FIRST_REFERENCE_SEED, Plan
from secateur.lab.read import read_plan


def faults(table) -> tuple[str, ...]:
    with pytest.raises(PlanError) as caught:
        read_plan(table)
    return caught.value.faults


def fault(table) -> str:
    found = faults(table)
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Writes a module that a plan can name."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_a_plan_becomes_objects(tiny):
    tiny["step"][1]["seed"] = 7
    plan = read_plan(tiny)
    assert isinstance(plan, Plan)
    assert [p.step for p in plan.steps] == [
        steps.Train(epochs=1, batch=64, lr=0.1),
        steps.FineTune(epochs=1, batch=64),
    ]
    assert [(p.label, p.use, p.seed) for p in plan.steps] == [
        ("train", "train", None),
        ("unlearn", "fine-tune", 7),
    ]
    assert plan.audits == (audits.Accuracy(),)
    assert plan.unlearn == 1
    assert (plan.references, plan.reference) == (0, None)
    assert (plan.settings.seed, plan.settings.run().threads, plan.settings.run().resolved) == (0, 1, "fp32")
    assert plan.table is tiny


def test_a_plan_without_audits_has_those_that_train_nothing(tiny):
    del tiny["audit"]
    assert read_plan(tiny).audits == (audits.Accuracy(), audits.MiaEfficacy())


def test_a_plan_without_unlearning_says_so(tiny):
    del tiny["step"][1]
    assert read_plan(tiny).unlearn is None


@pytest.mark.parametrize(
    ("used", "begins"),
    [
        (["train", "fine-tune", "magnitude", "fine-tune"], 1),
        (["retrain", "magnitude", "train", "fine-tune", "fisher"], 3),
        (["train", "fine-tune", "snip", "fine-tune"], 3),
        (["train", "fine-tune", "gradient-ascent", "train"], 1),
        (["fine-tune"], 0),
    ],
)
def test_unlearning_begins_after_the_pool_was_shown_for_the_last_time(tiny, used, begins):
    """Unless nothing is unlearned behind that."""
    tiny["step"] = [{"use": use, "as": f"{i}"} for i, use in enumerate(used)]
    assert read_plan(tiny).unlearn == begins


def test_references_copy_the_last_recipe(tiny):
    tiny["step"].insert(1, {"use": "train", "epochs": 3, "start": 1, "lr": 0.3, "keep": [1]})
    tiny["audit"] = [{"use": "retrain-gap", "references": 2}, {"use": "retrain-gap"}]
    plan = read_plan(tiny)
    assert plan.references == 5
    assert plan.reference is not None
    assert plan.reference.step == steps.Retrain(epochs=3, lr=0.3)


def test_references_may_have_a_recipe_of_their_own(tiny):
    tiny["audit"] = [{"use": "retrain-gap"}]
    tiny["reference"] = {"use": "retrain", "epochs": 2, "mask": "dense"}
    plan = read_plan(tiny)
    assert plan.reference is not None
    assert plan.reference.step == steps.Retrain(epochs=2, mask="dense")


def test_a_model_that_saw_the_forget_rows_is_no_reference(tiny):
    tiny["audit"] = [{"use": "retrain-gap"}]
    for use in ("train", "fine-tune", "gradient-ascent"):
        tiny["reference"] = {"use": use}
        assert "starts anew and reads retain alone" in fault(tiny)
    tiny["reference"] = {"use": "retrain", "seed": 3}
    assert 'reference: "seed" would have no effect' in fault(tiny)


def test_a_wrong_reference_is_told_even_where_no_audit_asks(tiny):
    tiny["reference"] = {"use": "retrain", "epoch": 3}
    assert fault(tiny) == 'reference ("retrain"): unknown key "epoch", did you mean "epochs"?'


def test_without_a_recipe_to_copy_references_are_asked_for(tiny):
    tiny["audit"], tiny["step"] = [{"use": "retrain-gap"}], tiny["step"][1:]
    assert fault(tiny).startswith('"reference" is missing')
    # a train step that is only misspelt is not called missing too
    tiny["step"] = [{"use": "train", "epoch": 1}]
    assert fault(tiny) == 'step 1 ("train"): unknown key "epoch", did you mean "epochs"?'


def test_no_plan_may_use_the_seeds_of_references(tiny):
    tiny["seed"] = FIRST_REFERENCE_SEED - 1
    assert read_plan(tiny).settings.seed == FIRST_REFERENCE_SEED - 1
    tiny["seed"] = tiny["step"][1]["seed"] = FIRST_REFERENCE_SEED
    assert [one.partition(":")[0] for one in faults(tiny)] == ["plan", "step 2"]


def test_all_faults_at_once(tiny):
    tiny["sed"] = 1
    tiny["threads"] = 0
    tiny["data"]["forget"]["classes"] = []
    tiny["model"]["widht"] = 3
    tiny["step"][0]["lr"] = "0.1"
    tiny["step"][1]["use"] = "fine-tine"
    tiny["audit"][0]["use"] = "acuracy"
    found = faults(tiny)
    assert found == (
        'unknown key "sed", did you mean "seed"?',
        "plan: threads should be greater than or equal to 1, got 0",
        "data.forget: classes = [] names none: name at least one class to forget",
        'model: unknown key "widht", did you mean "width"?',
        "step 1 (\"train\"): lr should be a valid number, got '0.1'",
        'step 2: no step is called "fine-tine": did you mean "fine-tune"?',
        'audit 1: no audit is called "acuracy": did you mean "accuracy"?',
    )
    with pytest.raises(PlanError, match="my plan has 7 faults:\n  - unknown key"):
        read_plan(tiny, source="my plan")


def test_all_faults_of_one_table_at_once(tiny):
    tiny["data"] |= {"nose": 1, "noise": "2", "holdout": 1.5, "seed": -1, "forget": 3}
    tiny["model"] |= {"depth": 1, "width": True, "weights": 3}
    tiny["step"] = [{"use": "train", "as": "a.b", "seed": 1.0, "epochs": 0, "lr": 0, "momentum": 1.0}]
    places = [
        *["data"] * 4,
        "data.forget should be",
        *["model"] * 3,
        *["step 1"] * 2,
        *['step 1 ("train")'] * 3,
    ]
    found = faults(tiny)
    assert len(found) == len(places)
    assert all(one.startswith(place) for one, place in zip(found, places, strict=True)), found


@pytest.mark.parametrize(
    ("where", "key", "nearest"),
    [
        ((), "sede", "seed"),
        ((), "steps", "step"),
        ((), "audits", "audit"),
        (("data",), "tset", "test"),
        (("data",), "holdut", "holdout"),
        (("data", "forget"), "class", "classes"),
        (("model",), "weight", "weights"),
        (("model",), "channel", "channels"),
        (("step", 0), "epoch", "epochs"),
        (("step", 1), "momentun", "momentum"),
        (("audit", 0), "levels", "level"),
    ],
)
def test_unknown_keys_are_answered_by_the_nearest(tiny, where, key, nearest):
    table = tiny
    for part in where:
        table = table[part]
    table[key] = 1
    assert fault(tiny).endswith(f'unknown key "{key}", did you mean "{nearest}"?')


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("epochs", "3", "epochs should be a valid integer, got '3'"),
        ("epochs", True, "epochs should be a valid integer, got True"),
        ("epochs", 1.0, "epochs should be a valid integer, got 1.0"),
        ("epochs", 0, "epochs should be greater than or equal to 1, got 0"),
        ("lr", float("inf"), "lr should be a finite number, got inf"),
        ("lr", float("nan"), "lr should be a finite number, got nan"),
        ("lr", "0.1", "lr should be a valid number, got '0.1'"),
        ("lr", True, "lr should be a valid number, got True"),
        ("lr", 0.0, "lr should be greater than 0, got 0.0"),
        ("momentum", 1.0, "momentum should be less than 1, got 1.0"),
        ("nesterov", 1, "nesterov should be a valid boolean, got 1"),
        ("schedule", "cosin", "schedule should be 'constant', 'step', 'cosine' or 'one-cycle', got 'cosin'"),
        ("keep", 2, "keep should be a valid array, got 2"),
        ("keep", [2.0], "keep should be a valid integer, got [2.0]"),
        ("seed", True, "seed should be a whole number from 0 on, got True"),
        ("seed", -1, "seed should be a whole number from 0 on, got -1"),
        ("as", "", "as should be a name without dots"),
        ("as", "a.b", "as should be a name without dots"),
        ("as", "data", "as should be a name without dots, and none of seed, device"),
        ("as", 3, "as should be a name without dots"),
    ],
)
def test_values_are_taken_strictly(tiny, key, value, says):
    tiny["step"][0][key] = value
    assert says in fault(tiny)


def test_whole_numbers_pass_for_numbers(tiny):
    tiny["step"][0]["lr"] = 1
    assert read_plan(tiny).steps[0].step.lr == 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": "0"}, "plan: seed should be a valid integer"),
        ({"precision": "fp16"}, "plan: precision should be 'auto', 'fp32', 'bf16' or 'fp64', got 'fp16'"),
        ({"device": "cuda:99"}, 'plan: expected a device that is here, got "cuda:99"'),
        ({"device": "abacus"}, 'plan: expected a device that is here, got "abacus"'),
        ({"data": None}, '"data" should be a table such as data = { use = "..." }, got None'),
        ({"model": "small-cnn"}, '"model" should be a table'),
        (
            {"step": {}},
            '"step" should be a list of [[step]] tables, got dict: write [[step]] with two brackets',
        ),
        ({"step": ["train"]}, "step 1 should be a table with \"use\", got 'train'"),
        ({"step": [{"epochs": 1}]}, 'step 1: "use" should name what to do, got None: one of '),
        ({"audit": [{"use": "train"}]}, 'audit 1: no audit is called "train": '),
        ({"audit": "accuracy"}, '"audit" should be a list of [[audit]] tables, got str'),
    ],
)
def test_tables_that_are_none(tiny, changes, says):
    assert any(one.startswith(says) for one in faults(tiny | changes))


def test_missing_parts_are_named():
    found = faults({})
    assert [one.split('"')[1] for one in found] == ["data", "model", "step"]


@pytest.mark.parametrize(
    ("code", "use", "says"),
    [
        ("", "aside:Nothing", '"aside" holds no "Nothing"'),
        ("", "absent_module:Step", 'cannot import "absent_module" for "absent_module:Step"'),
        ("", "aside:", 'expected an address "package.module:name", got "aside:"'),
        ("class Step: ...", "aside:Step", 'expected "aside:Step" to be a class with a `card`'),
        ("Step = 3", "aside:Step", "to be a class with a `card`, got 3"),
        (
            "from secateur import Card\nclass Step:\n    card = Card(summary='', paper='', data='')",
            "aside:Step",
            'expected "aside:Step" to be a frozen dataclass, whose fields are its knobs',
        ),
        (
            "from dataclasses import dataclass\nfrom secateur import Card\n@dataclass(frozen=True)\n"
            "class Step:\n    card = Card(summary='', paper='', data='')\n    def __call__(self, s, r): ...",
            "aside:Step",
            "callable and with `reads`, a frozenset of pool, forget, retain, got reads = None",
        ),
        (
            "from dataclasses import dataclass\nfrom secateur import Card\n@dataclass(frozen=True)\n"
            "class Step:\n    card = Card(summary='', paper='', data='')\n    reads = frozenset({'test'})\n"
            "    def __call__(self, state, run): ...",
            "aside:Step",
            "got reads = frozenset({'test'})",
        ),
        (
            "from dataclasses import dataclass\nfrom secateur import Card\n@dataclass(frozen=True)\n"
            "class Step:\n    lr: 'Missing' = 3\n    card = Card(summary='', paper='', data='')",
            "aside:Step",
            "cannot read the parameters of \"aside:Step\" (name 'Missing' is not defined)",
        ),
    ],
)
def test_outside_steps_that_are_none(tiny, outside, code, use, says):
    outside("aside", code)
    tiny["step"][1]["use"] = use
    tiny["step"][1].pop("epochs"), tiny["step"][1].pop("batch")
    assert says in fault(tiny)
    assert fault(tiny).startswith("step 2: ")


def test_an_outside_audit_that_is_none(tiny, outside):
    outside(
        "aside",
        "from dataclasses import dataclass\nfrom secateur import Card\n@dataclass(frozen=True)\n"
        "class Audit:\n    card = Card(summary='', paper='', data='')\n    def __call__(self, evidence): ...",
    )
    tiny["audit"] = [{"use": "aside:Audit"}]
    assert "to be an audit, callable and with `needs`, a secateur.Needs" in fault(tiny)


def test_outside_functions_that_are_none(tiny, outside):
    outside("aside", "three = 3\ndef odd(*, x: 'Missing'): ...")
    tiny["data"]["use"] = "aside:three"
    assert fault(tiny) == 'data: expected "aside:three" to be callable, got int'
    tiny["data"]["use"] = "digit"
    assert fault(tiny).startswith(
        'data: none is called "digit", did you mean "digits"?; or name one of yours'
    )
    tiny["data"]["use"] = "digits"
    tiny["model"]["use"] = "aside:odd"
    assert fault(tiny).startswith('model: cannot read the parameters of "aside:odd"')
    tiny["model"]["use"] = "time:time"
    assert fault(tiny).startswith('model: cannot read the parameters of "time:time"')


def test_nothing_is_changed_by_reading(tiny):
    before = copy.deepcopy(tiny)
    read_plan(tiny)
    assert tiny == before
