"""Evidence: what is refused, what is left out, and that it travels through a file unchanged."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import softmax

from secateur import stats
from secateur.errors import DataError
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs, load_outputs, pack_outputs


def outputs(labels, *, rows=None, classes=3, seed=0, margin=1.0, features=None):
    """Logits of noise, with a margin for the true label."""
    labels = np.asarray(labels)
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += margin
    return Outputs(logits, labels, np.arange(len(labels)) if rows is None else rows, features)


def views(seed=0, *, forget=(0, 1, 2), retain=(0, 1, 2), margin=1.0):
    return {
        "forget": outputs(np.repeat(forget, 8), rows=np.arange(8 * len(forget)), seed=seed, margin=margin),
        "retain": outputs(
            np.repeat(retain, 20), rows=100 + np.arange(20 * len(retain)), seed=seed + 1, margin=3
        ),
        "test": outputs(np.repeat([0, 1, 2], 10), seed=seed + 2),
    }


class TestOutputs:
    def test_what_it_derives(self):
        out = outputs([0, 2, 1, 1])
        probabilities = softmax(out.logits.astype(np.float64), axis=1)
        assert np.exp(out.log_probs) == pytest.approx(probabilities)
        assert out.confidence == pytest.approx([probabilities[i, y] for i, y in enumerate([0, 2, 1, 1])])
        assert out.correct.tolist() == [
            row.argmax() == y for row, y in zip(out.logits, [0, 2, 1, 1], strict=True)
        ]
        assert (len(out), out.classes) == (4, 3)

    def test_confidence_stays_a_probability_for_huge_logits(self):
        out = Outputs([[3e38, -3e38], [-3e38, 3e38]], [0, 0], [0, 1])
        assert out.confidence.tolist() == [1.0, 0.0]

    def test_empty_views_are_allowed(self):
        out = Outputs(np.zeros((0, 4)), [], [])
        assert (len(out), out.classes, len(out.correct), len(out.confidence)) == (0, 4, 0, 0)

    @pytest.mark.parametrize(
        ("logits", "labels", "rows", "told"),
        [
            (np.zeros(3), [0, 0, 0], [0, 1, 2], "logits \\[n, classes\\]"),
            (np.zeros((3, 2)), [0, 0], [0, 1, 2], "row by row"),
            (np.zeros((3, 2)), [0, 0, 0], [0, 1], "row by row"),
            (np.zeros((3, 2)), [[0], [0], [0]], [0, 1, 2], "row by row"),
            ([[0.0, np.nan]], [0], [0], "1 of 1 rows"),
            ([[0.0, np.inf], [0.0, 1.0]], [0, 0], [0, 1], "1 of 2 rows"),
            ([[0.0, 1e300]], [0], [0], "finite"),
            ([[0.0, 1.0]], [2], [0], "labels in 0..1"),
            ([[0.0, 1.0]], [-1], [0], "labels in 0..1"),
            ([[0.0, 1.0]], [0.5], [0], "labels \\[n\\] as integers"),
            ([[0.0, 1.0]], [0], [True], "rows \\[n\\] as integers"),
        ],
    )
    def test_refuses(self, logits, labels, rows, told):
        with pytest.raises(DataError, match=told):
            Outputs(logits, labels, rows)

    @pytest.mark.parametrize("features", [np.zeros((2, 5)), np.zeros(3)])
    def test_refuses_features_that_do_not_fit(self, features):
        with pytest.raises(DataError, match="features"):
            outputs([0, 1, 2], features=features)

    def test_arrays_are_read_only(self):
        with pytest.raises(ValueError, match="read-only"):
            outputs([0, 1]).logits[0, 0] = 1.0

    def test_without_drops_rows_from_every_array(self):
        out = outputs([0, 1, 2, 1], rows=[5, 6, 7, 8], features=np.arange(8.0).reshape(4, 2))
        kept = out.without([1])
        assert kept.rows.tolist() == [5, 7]
        assert kept.labels.tolist() == [0, 2]
        assert kept.features.tolist() == [[0.0, 1.0], [4.0, 5.0]]
        assert np.array_equal(kept.logits, out.logits[[0, 2]])
        assert out.without([]) is out


class TestEvidence:
    def test_models_carry_their_prefix(self):
        shadow = Reference("shadow", views(7), np.array([0]))
        retrained = Reference("retrained", views(8), np.arange(100, 160))
        evidence = Evidence(views(1), views(2), [shadow, retrained])
        assert [prefix for prefix, _ in evidence.models()] == ["", "before.", "retrain[0]."]
        assert dict(evidence.models())["retrain[0]."] is retrained.outputs
        assert evidence.retrains == [retrained]

    @pytest.mark.parametrize("part", ["rows", "labels", "classes"])
    def test_models_must_be_asked_about_the_same(self, part):
        other = views(1)
        test = other["test"]
        other["test"] = {
            "rows": Outputs(test.logits, test.labels, test.rows + 1),
            "labels": Outputs(test.logits, (test.labels + 1) % 3, test.rows),
            "classes": Outputs(np.pad(test.logits, ((0, 0), (0, 1))), test.labels, test.rows),
        }[part]
        with pytest.raises(DataError, match=f'"test", but the {part} of before differ'):
            Evidence(other, views(2))
        with pytest.raises(DataError, match=r"retrain\[0\] differ"):
            Evidence(views(1), views(2), [Reference("retrained", other, np.arange(100, 110))])

    def test_a_retrain_that_saw_forget_rows_is_refused_and_a_shadow_is_not(self):
        with pytest.raises(DataError, match=r"retrain\[1\] to have seen no forget row, .* 2 of them"):
            Evidence(
                views(1),
                views(2),
                [
                    Reference("shadow", views(3), np.arange(10)),
                    Reference("retrained", views(4), np.arange(100, 110)),
                    Reference("retrained", views(5), np.array([3, 4, 100])),
                ],
            )

    def test_retrained_reads_row_ids_or_a_split(self):
        split = SimpleNamespace(rows={"retain": np.array([100, 101]), "forget": np.array([0])})
        view = SimpleNamespace(rows=[100, 101])
        for trained_on in (split, view):
            reference = Reference.retrained(views(), trained_on)
            assert (reference.kind, reference.rows.tolist()) == ("retrained", [100, 101])

    def test_forgotten_classes_leave_test_and_are_told(self):
        evidence = Evidence(views(1, forget=[2], retain=[0, 1]), views(2, forget=[2], retain=[0, 1]))
        assert evidence.forgotten.tolist() == [2]
        hits = evidence.hits(evidence.after)
        assert {name: sorted(set(labels.tolist())) for name, (labels, _) in hits.items()} == {
            "UA": [2],
            "RA": [0, 1],
            "TA": [0, 1],
        }
        after = evidence.after
        assert hits["UA"][1].tolist() == (~after["forget"].correct).tolist()
        assert hits["RA"][1].tolist() == after["retain"].correct.tolist()
        assert hits["TA"][1].tolist() == after["test"].correct[:20].tolist()
        assert "class 2 counts as forgotten" in evidence.left_out[0]
        assert "10 of 30 test rows" in evidence.left_out[0]

    def test_nothing_forgotten_leaves_nothing_out(self):
        evidence = Evidence(views(1), views(2))
        assert len(evidence.forgotten) == 0
        assert evidence.left_out == ()
        assert len(evidence.hits(evidence.after)["TA"][1]) == 30

    def test_a_class_that_occurs_nowhere_is_no_caveat(self):
        wide = {
            name: Outputs(np.pad(out.logits, ((0, 0), (0, 2))), out.labels, out.rows)
            for name, out in views().items()
        }
        evidence = Evidence(wide, wide)
        assert evidence.forgotten.tolist() == [3, 4]
        assert evidence.left_out == ()

    def test_test_rows_of_forgotten_classes_alone_are_refused(self):
        only = views(forget=[2], retain=[0, 1])
        only["test"] = only["test"].without([0, 1])
        evidence = Evidence(only, only)
        with pytest.raises(DataError, match="retained class"):
            evidence.hits(evidence.after)

    def test_mia_efficacy_leaves_forgotten_classes_out_and_is_computed_once(self, monkeypatch):
        evidence = Evidence(views(1, forget=[2], retain=[0, 1]), views(2, forget=[2], retain=[0, 1]))
        asked = []

        def spy(retain, test, forget, **knobs):
            asked.append((len(retain), len(test), len(forget), knobs))
            return 0.25 * len(asked)

        monkeypatch.setattr(stats, "mia_efficacy", spy)
        values = [evidence.mia_efficacy(evidence.after, members="first", seed=3) for _ in range(3)]
        assert values == [0.25] * 3
        assert asked == [(40, 20, 8, {"members": "first", "seed": 3})]
        assert evidence.mia_efficacy(evidence.before, members="first", seed=3) == 0.5
        assert evidence.mia_efficacy(evidence.after, members="first", seed=4) == 0.75

    def test_mia_efficacy_is_that_of_stats(self):
        evidence = Evidence(views(1), views(2))
        after = evidence.after
        expected = stats.mia_efficacy(*(after[v].confidence for v in ("retain", "test", "forget")), seed=5)
        assert evidence.mia_efficacy(after, members="sampled", seed=5) == expected


class TestStored:
    def test_round_trip_and_stable_bytes(self, tmp_path):
        stored = views() | {
            "odd/name": outputs([0, 1], features=np.ones((2, 4))),
            "empty": Outputs(np.zeros((0, 3)), [], []),
        }
        path = tmp_path / "outputs.safetensors"
        path.write_bytes(pack_outputs(stored))
        assert stored["test"].confidence.any()  # what is derived must not be stored
        assert path.read_bytes() == pack_outputs(stored)
        back = load_outputs(path)
        assert list(back) == list(stored)
        for name, out in stored.items():
            for part in ("logits", "labels", "rows", "features"):
                one, other = getattr(out, part), getattr(back[name], part)
                assert (one is None and other is None) or (
                    np.array_equal(one, other) and one.dtype == other.dtype
                )

    def test_what_is_no_evidence_is_refused(self, tmp_path):
        whole = pack_outputs(views())
        cases = {"missing": None, "cut": whole[: len(whole) // 2], "text": b"{}", "nothing": b""}
        for name, content in cases.items():
            if content is not None:
                (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=f'"{tmp_path / name}"'):
                load_outputs(tmp_path / name)

    @pytest.mark.parametrize(
        "metadata", [None, {"other": "x"}, {"secateur": "no json"}, {"secateur": '{"views": ["a"]}'}]
    )
    def test_foreign_safetensors_are_refused(self, tmp_path, metadata):
        save_file({"w": np.zeros(2)}, tmp_path / "w.safetensors", metadata=metadata)
        with pytest.raises(DataError, match="stored outputs"):
            load_outputs(tmp_path / "w.safetensors")


def test_the_judging_wing_never_loads_torch():
    code = """
import sys
from secateur import audit, audits, evidence, record, stats
classes = [audits.shelf[name] for name in audits.shelf]
assert len(classes) >= 3, classes
stats.mia_efficacy([0.9, 0.8], [0.1, 0.2], [0.5])
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_a_reference_of_no_known_kind_is_refused():
    with pytest.raises(DataError, match="reference of kind"):
        Reference("magic", {}, np.arange(3))
