"""Data sets by name: tiny folders of the layouts that the hub has, and real images beside the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from secateur import zoo
from secateur.errors import DataError
from secateur.lab.read import DATASETS
from secateur.zoo import decode

from ..pictures import class_folders, encoded, labels, noise, parquet, pixels, real, two_classes

TEN = [str(i) for i in range(10)]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Layout(NamedTuple):
    """A set as the hub has it, and what it declares."""

    files: str
    names: list[str]
    augment: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image: str = "image"
    label: str = "label"
    mode: str = "RGB"
    test: str = "test"
    side: int = 32


SETS = {
    "cifar10": Layout(
        "plain_text/%s-00000-of-00001.parquet",
        CIFAR,
        "crop_flip(4)",
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        image="img",
    ),
    "cifar100": Layout(
        "cifar100/%s-00000-of-00001.parquet",
        [f"fine {i}" for i in range(100)],
        "crop_flip(4)",
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        image="img",
        label="fine_label",
    ),
    "fashion-mnist": Layout(
        "fashion_mnist/%s-00000-of-00001.parquet",
        TEN,
        "crop_flip(2)",
        (0.2860,),
        (0.3530,),
        mode="L",
        side=28,
    ),
    "svhn": Layout(
        "cropped_digits/%s-00000-of-00001.parquet",
        TEN,
        "crop_flip(4, flip=False)",
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
    ),
    "tiny-imagenet": Layout(
        "data/%s-00000-of-00001-1359597a978bc4fa.parquet",
        [f"n0{i}" for i in range(1443537, 1443737)],
        "crop_flip(4)",
        *IMAGENET,
        test="valid",
        side=64,
    ),
}
Y, TESTED = [3, 0, 2, 3, 1, 0], [1, 3, 0, 2]


def hub(folder: Path, name: str) -> Path:
    """The tiny folder."""
    it = SETS[name]
    coarse = labels(["apple tree", "fish"], [1, 0, 0, 1, 1, 0])
    for split, y, first in (("train", Y, 0), (it.test, TESTED, 50), ("extra", [1, 2], 90)):
        images = [noise(first + i, (it.side, it.side), it.mode) for i in range(len(y))]
        more: dict[str, Any] = {it.label: labels(it.names, y)}
        if name == "cifar100":
            more["coarse_label"] = coarse[0], coarse[1][: len(y)]
        if split != "extra" or name == "svhn":
            parquet(folder / (it.files % split), images, image=it.image, **more)
    return folder


def test_every_set_of_images_is_tried():
    assert {*SETS, "imagenet", "images", "digits"} == set(DATASETS)


@pytest.mark.parametrize("name", SETS)
def test_a_folder_of_the_hubs_layout_gives_the_pixels_of_its_files(name, tmp_path):
    it = SETS[name]
    made = DATASETS[name](path=str(hub(tmp_path, name)))
    for (x, y), first, want in ((made.train, 0, Y), (made.test, 50, TESTED)):
        assert x.dtype == np.uint8
        assert y.tolist() == want
        np.testing.assert_array_equal(
            x, pixels([noise(first + i, (it.side, it.side), it.mode) for i in range(len(want))], it.mode)
        )
    assert made.ids.tolist() == list(range(6))
    assert made.names == tuple(it.names)
    assert (made.mean, made.std) == (it.mean, it.std)
    assert len(made.mean) == made.train[0].shape[1]
    assert repr(made.augment) == it.augment
    assert DATASETS[name](path=str(tmp_path), augment=False).augment is None
    columns = {key: values.tolist() for key, values in made.columns.items()}
    assert columns == (
        {"coarse_label": ["fish", "apple tree", "apple tree", "fish", "fish", "apple tree"]}
        if name == "cifar100"
        else {}
    )


def test_svhn_is_read_from_a_whole_copy_of_its_repository(tmp_path):
    """With its page, which declares two configurations."""
    hub(tmp_path, "svhn")
    parquet(tmp_path / "full_numbers/train-00000-of-00001.parquet", [noise(0)], digits=["12"])
    splits = "".join(
        f"  - split: {split}\n    path: cropped_digits/{split}-*\n" for split in ("train", "test", "extra")
    )
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: cropped_digits\n  data_files:\n{splits}- config_name: full_numbers\n"
        "  data_files:\n  - split: train\n    path: full_numbers/train-*\n---\n"
    )
    assert zoo.svhn(path=str(tmp_path)).train[1].tolist() == Y


def test_imagenet_is_brought_to_one_size_and_tested_where_labels_are_public(tmp_path):
    kinds = ["tench, Tinca tinca", "goldfish, Carassius auratus", *(f"class {i}" for i in range(2, 1000))]
    # side by side: the image, and what must come out, by ways that are exact
    square, wide, tall = noise(0, (224, 224)), noise(1, (300, 224), "L"), noise(2, (224, 400))
    large = noise(3, (448, 448), "P")
    want = [
        square,
        wide.crop((38, 0, 262, 224)),
        tall.crop((0, 88, 224, 312)),
        large.convert("RGB").resize((224, 224), 2),
    ]
    ink = noise(4, (224, 224), "CMYK")
    parquet(tmp_path / "data/train-00000-of-00002.parquet", [square, wide], label=labels(kinds, [0, 1]))
    parquet(tmp_path / "data/train-00001-of-00002.parquet", [tall, large], label=labels(kinds, [1, 0]))
    parquet(
        tmp_path / "data/validation-00000-of-00001.parquet", [encoded(ink, "TIFF")], label=labels(kinds, [1])
    )
    parquet(
        tmp_path / "data/test-00000-of-00001.parquet", [noise(5), noise(6)], label=labels(kinds, [-1, -1])
    )
    made = zoo.imagenet(path=str(tmp_path))
    assert made.train[0].shape == (4, 3, 224, 224)
    np.testing.assert_array_equal(made.train[0], pixels(want))
    np.testing.assert_array_equal(made.test[0], pixels([ink]))
    assert (made.train[1].tolist(), made.test[1].tolist()) == ([0, 1, 1, 0], [1])
    assert (made.mean, made.std) == IMAGENET
    assert repr(made.augment) == "crop_flip(28)"


# images of your own


def test_class_folders_are_a_data_set(tmp_path):
    shown = {"train/cat": [noise(0), noise(1)], "train/dog": [noise(2)], "test/cat": [noise(3)]}
    made = zoo.images(path=str(class_folders(tmp_path, shown)), crop=1, flip=True, mean=(0.1, 0.2, 0.3))
    assert made.names == ("cat", "dog")
    assert made.train[1].tolist() == [0, 0, 1]
    assert made.test[1].tolist() == [0]
    np.testing.assert_array_equal(made.train[0], pixels([noise(0), noise(1), noise(2)]))
    np.testing.assert_array_equal(made.test[0], pixels([noise(3)]))
    assert repr(made.augment) == "crop_flip(1)"
    assert made.mean == (0.1, 0.2, 0.3)
    assert zoo.images(path=str(tmp_path)).augment is None


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_sets_by_name_may_be_class_folders_too(name, tmp_path):
    splits = "train", "val" if name == "tiny-imagenet" else "test"
    names = [f"class {i:03}" for i in range(len(SETS[name].names))]
    images = {c: noise(i, (SETS[name].side,) * 2) for i, c in enumerate(names)}
    class_folders(tmp_path, {f"{split}/{c}": [image] for split in splits for c, image in images.items()})
    made = DATASETS[name](path=str(tmp_path))
    assert made.names == tuple(names)
    np.testing.assert_array_equal(made.train[0], pixels([*images.values()]))


def test_a_set_by_name_is_no_other_set(tmp_path):
    """Its name stands in the record, and its constants in the network."""
    ten = hub(tmp_path / "ten", "cifar10")
    with pytest.raises(DataError, match='columns of "uoft-cs/cifar100", img and fine_label, got img, label'):
        zoo.cifar100(path=str(ten))
    with pytest.raises(
        DataError, match='columns of "uoft-cs/cifar10", img and label, got img, fine_label, coarse'
    ):
        zoo.cifar10(path=str(hub(tmp_path / "hundred", "cifar100")))
    grey = hub(tmp_path / "grey", "fashion-mnist")
    with pytest.raises(
        DataError, match=r'images of "uoft-cs/cifar10", 32 x 32, got 28 x 28: this is another'
    ):
        zoo.cifar10(path=str(grey))
    pair = two_classes(tmp_path / "pair", size=(28, 28))
    with pytest.raises(DataError, match=r'expected the 10 classes of "zalando-datasets/.*", got 2'):
        zoo.fashion_mnist(path=str(pair))


def test_test_rows_out_of_the_training_rows_keep_their_ids(no_split):
    made = zoo.images(path=str(no_split), test=0.2)
    assert sorted([*made.ids, *made.test_ids]) == list(range(30))
    assert zoo.images(path=str(no_split), test=0.2, limit=9).test_ids.tolist() == made.test_ids.tolist()


@pytest.fixture
def no_split(tmp_path):
    """20 cats and 10 dogs."""
    return class_folders(
        tmp_path, {"cat": [noise(i) for i in range(20)], "dog": [noise(i) for i in range(20, 30)]}
    )


def whole(made):
    """Id to pixels and label."""
    return {row: (x.tobytes(), y) for row, x, y in zip(made.ids.tolist(), *made.train, strict=True)}


def test_a_share_of_rows_without_a_split_is_tested_on(no_split):
    made = zoo.images(path=str(no_split), test=0.2)
    assert np.bincount(made.train[1]).tolist() == [16, 8]
    assert np.bincount(made.test[1]).tolist() == [4, 2]
    everything = pixels([noise(i) for i in range(30)])
    np.testing.assert_array_equal(made.train[0], everything[made.ids])
    rest = np.setdiff1d(np.arange(30), made.ids)
    np.testing.assert_array_equal(made.test[0], everything[rest])


def test_who_is_tested_on_depends_on_neither_seed_nor_limit(no_split):
    makes = [
        zoo.images(path=str(no_split), test=0.2, **given)
        for given in ({}, {"seed": 3}, {"limit": 9}, {"limit": 9, "seed": 3}, {"limit": 24})
    ]
    assert [len(made.train[1]) for made in makes] == [24, 24, 9, 9, 24]
    for made in makes[1:]:
        np.testing.assert_array_equal(made.test[0], makes[0].test[0])
        assert whole(made).items() <= whole(makes[0]).items()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_leaves_rows_on_both_sides(no_split, share):
    with pytest.raises(DataError, match=rf"got (30 and 0|0 and 30) by data\.test = {share}: take another"):
        zoo.images(path=str(no_split), test=share)


def test_there_is_one_way_to_be_tested(no_split, tmp_path_factory):
    with pytest.raises(
        DataError, match=r"or say which share of the training rows to take, data\.test = 0\.2"
    ):
        zoo.images(path=str(no_split))
    with pytest.raises(DataError, match=r'the folder has a split for it, "test"; leave the share out'):
        zoo.images(path=str(two_classes(tmp_path_factory.mktemp("both"))), test=0.2)
    with pytest.raises(DataError, match=r'"train", called test or validation .*: add it to the folder$'):
        zoo.cifar10(path=str(no_split))


def test_columns_and_size_are_as_asked(tmp_path):
    two_classes(
        tmp_path,
        mark=[f"m{i}" for i in range(6)],
        kind=labels(["x", "y"], [0, 0, 1, 1, 0, 1]),
        score=[0.5] * 6,
        good=[True, False] * 3,
    )
    with pytest.raises(
        DataError, match=r'got label and kind: name the one that you mean, data\.label = "label"'
    ):
        zoo.images(path=str(tmp_path))
    made = zoo.images(path=str(tmp_path), label="kind", size=4)
    assert made.names == ("x", "y")
    assert made.train[1].tolist() == [0, 0, 1, 1, 0, 1]
    assert made.train[0].shape == (6, 3, 4, 4)
    np.testing.assert_array_equal(
        made.train[0], pixels([noise(i, (8, 8)).resize((4, 4), 2) for i in range(6)])
    )
    assert {key: values.tolist() for key, values in made.columns.items()} == {
        "label": ["cat", "dog"] * 3,
        "mark": [f"m{i}" for i in range(6)],
        "good": [True, False] * 3,
    }
    by_mark = zoo.images(path=str(tmp_path), label="mark")
    assert by_mark.train[1].tolist() == list(range(6))


# a limit


@pytest.fixture
def many(tmp_path):
    """30 rows of class 0, 20 of class 1, 10 of class 2, mixed."""
    y = np.random.default_rng(0).permutation([0] * 30 + [1] * 20 + [2] * 10).tolist()
    parquet(
        tmp_path / "train.parquet",
        [noise(i, (32, 32)) for i in range(60)],
        image="img",
        label=labels(CIFAR, y),
        subject=[f"s{i}" for i in range(60)],
    )
    parquet(
        tmp_path / "test.parquet",
        [noise(99, (32, 32))],
        image="img",
        label=labels(CIFAR, [0]),
        subject=["none"],
    )
    return tmp_path


@pytest.mark.parametrize("limit", [6, 13, 59, 60])
def test_a_limit_is_a_stratified_sample_of_exactly_as_many_rows(many, limit):
    everything = whole(zoo.cifar10(path=str(many)))
    made = zoo.cifar10(path=str(many), limit=limit)
    assert len(made.ids) == len(made.train[0]) == len(made.train[1]) == limit
    assert (np.diff(made.ids) > 0).all()
    assert whole(made).items() <= everything.items()
    assert made.columns["subject"].tolist() == [f"s{i}" for i in made.ids]
    assert len(made.test[1]) == 1
    counts = np.bincount(made.train[1], minlength=3)
    assert np.abs(counts - limit * np.array([30, 20, 10]) / 60).max() <= 1


def test_a_limit_leaves_no_class_out(many):
    """It would count as forgotten."""
    with pytest.raises(DataError, match=r"a row of each of 3 classes, got 2: take at least \d") as told:
        zoo.cifar10(path=str(many), limit=2)
    least = int(str(told.value).split()[-1])
    assert set(zoo.cifar10(path=str(many), limit=least).train[1]) == {0, 1, 2}
    with pytest.raises(DataError, match=f"take at least {least}"):
        zoo.cifar10(path=str(many), limit=least - 1)


def test_a_sample_is_fixed_by_the_seed(many):
    def ids(seed):
        return tuple(zoo.cifar10(path=str(many), limit=12, seed=seed).ids)

    assert ids(0) == ids(0)
    assert len({ids(seed) for seed in range(4)}) == 4


def test_without_a_limit_there_is_one_entry_for_all_seeds(many, monkeypatch):
    zoo.cifar10(path=str(many), seed=0)
    monkeypatch.setattr(decode, "_loaded", None)
    assert len(zoo.cifar10(path=str(many), seed=1, augment=False).ids) == 60


def test_a_limit_above_the_rows(many):
    with pytest.raises(DataError, match=r"data\.limit of at most 60, .* got 61: take less, or leave it out"):
        zoo.cifar10(path=str(many), limit=61)


# real images


@pytest.fixture(scope="session")
def fashion(private_cache):
    return zoo.fashion_mnist(path=str(real("fashion_mnist")), limit=500)


def test_real_images_are_what_the_set_declares(fashion):
    (x, y), (x_test, y_test) = fashion.train, fashion.test
    assert (x.shape, x_test.shape) == ((500, 1, 28, 28), (10_000, 1, 28, 28))
    assert np.bincount(y).tolist() == [50] * 10
    assert np.bincount(y_test).tolist() == [1000] * 10
    assert len(set(fashion.names)) == 10
    assert fashion.ids[-1] > 50_000
    # the constants are of the training rows: 10,000 others have them within a few standard errors, which
    # are those of images, not of pixels, as the pixels of one image hang together
    for found, constant in (
        (x_test.mean(axis=(1, 2, 3)) / 255, fashion.mean[0]),
        (((x_test / 255 - fashion.mean[0]) ** 2).mean(axis=(1, 2, 3)), fashion.std[0] ** 2),
    ):
        error = found.std() / len(found) ** 0.5
        assert error < 0.01 * constant
        assert found.mean() == pytest.approx(constant, abs=4 * error)


def test_a_second_start_decodes_nothing(fashion, monkeypatch):
    monkeypatch.setattr(decode, "_loaded", None)
    again = zoo.fashion_mnist(path=str(real("fashion_mnist")), limit=500)
    np.testing.assert_array_equal(again.train[0], fashion.train[0])
    np.testing.assert_array_equal(again.test[0], fashion.test[0])
