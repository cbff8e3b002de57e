"""Classifiers of transformers: their own logits, their own files, and every method on them."""

from __future__ import annotations

import sys

import pytest
import torch
import transformers as hub
from safetensors.torch import save_file

import secateur as sc
from secateur import lab, zoo
from secateur.errors import DataError, UsageError
from secateur.lab.freeze import load_weights
from secateur.network import copy_model

RUN = sc.Run(seed=3, threads=1)
SWIN = {"patch_size": 2, "window_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2]}
VIT = {
    "patch_size": 4,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
CONFIGS = {
    "swin": SWIN,
    "swinv2": SWIN,
    "vit": VIT,
    "deit": VIT,  # has two classifiers in transformers, the other with a teacher
    "convnext": {"depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 8, 8]},
    "resnet": {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8},  # knows no size of images
}
KINDS = {
    "swin": hub.SwinForImageClassification,
    "swinv2": hub.Swinv2ForImageClassification,
    "vit": hub.ViTForImageClassification,
    "deit": hub.DeiTForImageClassification,
    "convnext": hub.ConvNextForImageClassification,
    "resnet": hub.ResNetForImageClassification,
}
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def made(architecture, **given):
    with RUN.seeded("init"):
        return zoo.transformers(
            **{
                "architecture": architecture,
                "classes": 5,
                "size": 32,
                "config": CONFIGS[architecture],
                "mean": MEAN,
                "std": STD,
            }
            | given
        ).eval()


def theirs(architecture):
    """As its own library makes and calls it."""
    kind = KINDS[architecture]
    config = kind.config_class(num_labels=5, **CONFIGS[architecture])
    if hasattr(config, "image_size"):
        config.image_size = 32
    with RUN.seeded("other"):
        return kind(config).eval()


def images(b=3, size=32):
    return torch.rand(b, 3, size, size, generator=RUN.rng("images"))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_logits_are_those_of_the_library_and_so_are_the_names(architecture):
    model, other = made(architecture), theirs(architecture)
    weights = other.state_dict()
    assert set(model.state_dict()) - set(weights) == {"normalize.mean", "normalize.std"}
    model.load_state_dict(weights)
    x = images()
    told = torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    with torch.no_grad():
        want = other(pixel_values=told).logits
        assert want.std() > 0
        torch.testing.assert_close(model(x), want, rtol=0, atol=1e-6)
        torch.testing.assert_close(copy_model(model)(x), want, rtol=0, atol=1e-6)


def test_a_saved_model_loads_strictly(tmp_path):
    theirs("swin").save_pretrained(tmp_path)
    other = hub.AutoModelForImageClassification.from_pretrained(tmp_path)  # as docs/start.md has it
    save_file(other.state_dict(), tmp_path / "net.safetensors")
    model = load_weights(made("swin"), tmp_path / "net.safetensors")
    assert torch.equal(model.classifier.weight, other.classifier.weight)
    assert model.normalize.mean.tolist() == pytest.approx(MEAN)
    with pytest.raises(DataError, match=r"classifier.weight has shape \(5, 16\), not \(4, 16\)"):
        load_weights(made("swin", classes=4), tmp_path / "net.safetensors")


def test_a_whole_config_of_a_saved_model_is_taken():
    config = theirs("vit").config.to_diff_dict()
    assert {"id2label", "image_size", "hidden_size"} <= config.keys()
    assert made("vit", config=config).classifier.out_features == 5
    with pytest.raises(UsageError, match=r"expected 4 classes in `config`, .* got id2label with 5: leave"):
        made("vit", config=config, classes=4)
    with pytest.raises(UsageError, match=r"expected image_size = 28 in `config`, as `size` says, got 32"):
        made("vit", config=config, size=28)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"architecture": "swim"}, r'no image classifier "swim", did you mean "swin"'),
        ({"architecture": "bert"}, r'no image classifier "bert", '),
        ({"config": {"window": 2}}, r'config of "swin" has no entry "window", did you mean "window_size"'),
        (
            {"config": {"depths": [1, 1], "num_heads": [2]}},
            r"transformers says: IndexError: list index out of range ",
        ),
        ({"config": {"depths": "two"}}, r"transformers says: .*'depths'.*change the entry that it names"),
    ],
)
def test_what_cannot_be_built_is_refused(given, told):
    with pytest.raises(UsageError, match=told):
        zoo.transformers(**{"architecture": "swin", "size": 32} | given)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "transformers", None
    )  # as Python itself notes a module that is not there
    with pytest.raises(UsageError, match=r'not installed: run pip install "secateur\[transformers\]"'):
        zoo.transformers(architecture="swin")


def plan(**given):
    train = {"epochs": 6, "batch": 64, "lr": 0.1, "schedule": "one-cycle", "clip": 1.0}
    return {
        "threads": 1,
        "data": {"use": "digits", "test": 0.7, "forget": {"how": "class", "classes": [3]}},
        "model": {"use": "transformers", "architecture": "swin", "config": SWIN},
        "step": [
            {"use": "train", "keep": [1], **train},
            {"use": "magnitude", "sparsity": 0.5, "rewind": "epoch-1"},
            {"use": "train", "as": "train again", "start": 1, **train},
            {"use": "fine-tune", "as": "unlearn"},
        ],
        "grid": {
            "unlearn": [
                {"use": "retrain", **train},
                {"use": "fine-tune", "epochs": 1, "clip": 1.0},
                {"use": "gradient-ascent", "epochs": 1, "lr": 1e-4},
                {"use": "l1-sparse", "epochs": 1, "clip": 1.0},
                {"use": "fisher", "noise": 1e-7},
                {"use": "influence", "damping": 0.1, "rows": 50, "products": 5},
            ]
        },
    }


def test_every_method_of_the_paper_works_on_a_pruned_swin(tmp_path):
    ended = lab.run_grid(lab.expand(plan()), tmp_path)
    assert not ended.failures
    assert [record.method for record in ended.records] == [step["use"] for step in plan()["grid"]["unlearn"]]
    for record in ended.records:
        assert record.versions["transformers"] == hub.__version__
        weights = load_weights(
            zoo.transformers(architecture="swin", config=SWIN, channels=1, size=8),
            next(tmp_path.glob(f"runs/{record.key}*/model.safetensors")),
        )
        linear = [m.weight for m in weights.modules() if isinstance(m, torch.nn.Linear)]
        zeros = sum(int((w == 0).sum()) for w in linear) / sum(w.numel() for w in linear)
        assert zeros > 0.4  # linear layers are pruned, too: the published code leaves them dense


def test_a_config_that_cannot_be_built_is_told_before_the_work(cli, tmp_path):
    table = plan() | {"model": {"use": "transformers", "architecture": "swin", "config": {"window": 2}}}
    (tmp_path / "plan.toml").write_text(lab.to_toml(table))
    ran = cli("grid", tmp_path / "plan.toml", "--store", tmp_path / "store")
    assert ran.code == 2
    assert 'has no entry "window", did you mean "window_size"' in ran.err
    assert not list((tmp_path / "store").glob("steps/*"))
