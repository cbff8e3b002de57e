"""An audit of a case whose answer is known: mislabelled rows are learned by heart, then forgotten or not."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import secateur as sc
from secateur import zoo
from secateur.audit import overall
from secateur.controls import as_fakes
from secateur.evidence import Evidence, Reference
from secateur.lab import run_plan
from secateur.lab.read import read_plan
from secateur.lab.tiers import audit_tier
from secateur.outputs import Outputs
from secateur.together import apply_together

pytestmark = pytest.mark.slow
TIER_1 = ("RetrainGap", "Threshold", "TugOfWar", "Divergence", "Rmia", "Iam")
RECIPE = {"epochs": 120, "batch": 64, "lr": 0.1, "schedule": "one-cycle", "decay": 0.0}


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


class World:
    """Digits, a fifth of the training labels wrong, and models trained on any part of them."""

    def __init__(self, forget=None):
        images, self.y = zoo.digits(test=0.5, noise=0.2).train
        _, truth = zoo.digits(test=0.5).train
        self.x = (images / 255).astype(np.float32)
        tested, labels = zoo.digits(test=0.5).test
        self.test = (tested / 255).astype(np.float32), labels
        self.forget = np.flatnonzero(self.y != truth) if forget is None else np.flatnonzero(self.y == forget)
        self.split = self.split_of(self.forget)
        (self.original,) = self.trained(sc.steps.Train(**RECIPE), [0])
        self.before = self.see(self.original)
        retrained = self.trained(sc.steps.Retrain(**RECIPE), range(100, 110))
        self.references = [Reference.retrained(self.see(model), self.split) for model in retrained]

    def split_of(self, forget):
        return sc.Split.of(self.x, self.y, forget=forget, test=self.test)

    def trained(self, step, seeds, forget=None):
        split = self.split if forget is None else self.split_of(forget)
        runs = [sc.Run(seed=seed, device="cpu", precision="fp32", threads=1) for seed in seeds]
        states = [sc.State.of(build, split, run) for run in runs]
        done = apply_together(step, states, runs, chunk=16, advance=lambda _: None)
        return [one.state.model for one in done]

    def see(self, model):
        return sc.observe(model, self.split, sc.Run(device="cpu", precision="fp32", threads=1))

    def evidence(self, after):
        return Evidence(self.before, after, self.references)

    def judged(self, after):
        return sc.judge([getattr(sc.audits, name)() for name in TIER_1], self.evidence(after))


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def class_world():
    return World(forget=3)


def area(world, after):
    return sc.audits.Rmia()(world.evidence(after)).estimates["AUC"].value


def test_the_original_fails(world):
    assert world.before["forget"].correct.mean() > 0.9  # learned by heart, wrong as they are
    findings = world.judged(world.before)
    assert {finding.audit: finding.verdict for finding in findings} == dict.fromkeys(
        ("retrain-gap", "threshold", "tug-of-war", "divergence", "rmia", "iam"), "fail"
    )
    assert area(world, world.before) > 0.8


def test_held_out_retrains_pass(world):
    held = world.trained(sc.steps.Retrain(**RECIPE), range(200, 205))
    verdicts = [overall(world.judged(world.see(model)))[0] for model in held]
    assert verdicts.count("pass") >= 4, verdicts


def test_the_answer_moves_with_the_dose(world):
    order, doses, areas, apart = np.random.default_rng(1).permutation(world.forget), [], [], []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        gone = order[: round(share * len(order))]
        again = (
            [world.original]
            if not share
            else world.trained(sc.steps.Retrain(**RECIPE), range(300, 303), gone)
        )
        for after in map(world.see, again):
            doses.append(share)
            areas.append(area(world, after))
            found = sc.audits.Divergence()(world.evidence(after)).estimates
            apart.append(found["JS.forget"].value)
    for values in (areas, apart):
        assert spearmanr(doses, values).statistic <= -0.9


class TestDegenerate:
    """None of nine candidates that are no unlearning may pass."""

    @pytest.mark.parametrize(
        "name",
        [
            "constant output",
            "logits x 0.01",
            "logits x 100",
            "test-like answers on forget",
            "random labels on forget",
            "random answers",
        ],
    )
    def test_fakes_made_of_answers(self, world, name):
        fakes = dict(as_fakes(world.evidence(world.before)))
        verdict, why = overall(world.judged(fakes[name].after))
        assert verdict != "pass", why

    def test_a_masked_head(self, class_world):
        fakes = dict(as_fakes(class_world.evidence(class_world.before)))
        masked = fakes["masked head"].after
        assert not masked["forget"].correct.any()  # by accuracy alone it is perfect
        verdict, why = overall(class_world.judged(masked))
        assert verdict != "pass", why

    def test_random_weights(self, world):
        run = sc.Run(seed=77, device="cpu", precision="fp32", threads=1)
        new = sc.State.of(build, world.split, run).model
        assert overall(world.judged(world.see(new)))[0] != "pass"

    def test_the_original_with_noise_until_retain_falls_by_five_points(self, world):
        rng, scale, after = torch.Generator().manual_seed(0), 0.01, world.before
        while after["retain"].correct.mean() > world.before["retain"].correct.mean() - 0.05:
            noisy, scale = deepcopy(world.original), 1.2 * scale
            with torch.no_grad():
                for weight in noisy.parameters():
                    weight += scale * torch.randn(weight.shape, generator=rng)
            after = world.see(noisy)
        assert overall(world.judged(after))[0] != "pass"

    def test_a_model_retrained_on_half_of_retain(self, world):
        retained = world.split.retain.rows
        half = np.random.default_rng(2).permutation(retained)[: len(retained) // 2]
        gone = np.union1d(world.forget, half)
        (model,) = world.trained(sc.steps.Retrain(**RECIPE), [400], gone)
        assert overall(world.judged(world.see(model)))[0] != "pass"


def test_forget_against_retain_is_refused(world):
    def beside(outputs):
        kept = outputs["retain"]
        return {**outputs, "test": Outputs(kept.logits, kept.labels, kept.rows)}

    with pytest.raises(sc.errors.DataError, match="expected test rows that no model was trained on"):
        Evidence(beside(world.before), beside(world.before))


def test_a_bank_tells_the_original_from_retrains_and_not_a_retrain(tmp_path):
    recipe = RECIPE | {"epochs": 50}
    table = {
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "data": {
            "use": "digits",
            "test": 0.5,
            "noise": 0.2,
            "forget": {"how": "column", "column": "mislabelled", "equals": True},
        },
        "model": {"use": "mlp", "width": 64},
        "step": [{"use": "train", **recipe}, {"use": "retrain", "as": "unlearn", **recipe}],
    }
    record = run_plan(read_plan(table), tmp_path)
    asked = [sc.audits.Epsilon(models=20), sc.audits.Klom(models=20), sc.audits.ULira(models=20)]
    for finding in audit_tier(tmp_path, record.key, asked):
        assert finding.verdict == "pass", finding
        original, held_out, *_ = finding.controls
        assert original.said == {"fail": 1}
        assert held_out.held
    (found,) = audit_tier(tmp_path, record.key, asked[:1])
    assert found.estimates["before.epsilon"].low > 0
    assert found.estimates["epsilon"].value == 0
