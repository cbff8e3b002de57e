"""A plan whose images stay on disk leaves what one with images in memory leaves, and says which it was."""

import itertools

import pytest

from secateur.lab import expand, run_plan
from secateur.lab.execute import Lab
from secateur.lab.store import Store
from secateur.zoo.pixels import Pictures

from ..pictures import class_folders, noise, two_classes
from .test_execute import tensors

N = 40
PLAN = {
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "model": {"use": "small-cnn", "width": 2},
    "step": [
        {"use": "train", "epochs": 2, "batch": 8},
        {"use": "fine-tune", "as": "unlearn", "epochs": 1, "batch": 8},
    ],
    "audit": [{"use": "accuracy"}],
}
WAYS = {
    "in-memory": {"memory": "in-memory"},
    "mapped": {"memory": "mapped", "workers": 0},
    "mapped, by two processes": {"memory": "mapped", "workers": 2},
    "auto": {},
}


@pytest.fixture(params=["parquet", "a folder for each class", "save_to_disk"])
def folder(request, tmp_path):
    """The same kind of images, as people have them."""
    place = tmp_path / "images"
    if request.param == "a folder for each class":
        shown = {
            f"{part}/{kind}": i for i, (part, kind) in enumerate(itertools.product(("train", "test"), "ab"))
        }
        return class_folders(
            place, {name: [noise(100 * i + k, (8, 8)) for k in range(N // 2)] for name, i in shown.items()}
        )
    two_classes(place, n=N)
    if request.param == "save_to_disk":
        import datasets

        made = datasets.load_dataset(str(place), cache_dir=str(tmp_path / "arrow"))
        place = tmp_path / "saved"
        made.save_to_disk(place)
    return place


def plan(folder, way):
    data = {"use": "images", "path": str(folder), "flip": True, "forget": {"how": "rows", "rows": [0, 3, 8]}}
    (made,) = expand({**PLAN, "data": data | WAYS[way]})
    return made


def test_images_that_are_decoded_when_they_are_drawn(folder, tmp_path):
    found = {}
    for number, way in enumerate(WAYS):
        store, made = tmp_path / str(number), plan(folder, way)
        x, _ = made.data.call(**made.data.knobs).train
        assert isinstance(x, Pictures) == way.startswith("mapped"), "else nothing is left to be decoded"
        found[way] = run_plan(made, store), tensors(store)
    record, files = found["in-memory"]
    assert {name.partition("/")[0] for name in files} == {"steps", "outputs", "runs"}
    for way, (other, others) in found.items():
        assert other.key == record.key
        assert others == files, way
        assert [finding.estimates for finding in other.findings] == [
            finding.estimates for finding in record.findings
        ]
        held = "mapped" if way.startswith("mapped") else "in-memory"  # auto: it fits
        assert other.split["memory"] == dict.fromkeys(("forget", "retain", "test"), held)


def test_a_plan_on_mapped_rows_finds_the_steps_of_one_in_memory(tmp_path):
    folder, store = two_classes(tmp_path / "images", n=N), Store(tmp_path / "store")
    first, then = Lab(store), Lab(store)
    record = first.run(plan(folder, "in-memory"))
    assert first.taken == ["train", "fine-tune"]
    assert then.run(plan(folder, "mapped")) == record
    assert then.taken == []
