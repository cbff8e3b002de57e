"""Reading images: every kind of file that people have, what is refused in words, and what is kept."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from secateur import zoo
from secateur.errors import DataError
from secateur.zoo import decode

from ..pictures import class_folders, encoded, labels, noise, parquet, pixels, two_classes

GREY_16 = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))


def files(folder, train, test=(), **knobs):
    """A data set of these images, all of class "a", read."""
    for split, images in (("train", train), ("test", test or train)):
        parquet(folder / f"{split}.parquet", images, label=labels(["a"], [0] * len(images)))
    return zoo.images(path=str(folder), **knobs)


# kinds of images


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "YCbCr"])
@pytest.mark.parametrize("first", ["RGB", None])
def test_colour_is_as_pillow_has_it(mode, first, tmp_path):
    form = "PNG" if mode in ("RGB", "RGBA", "P") else "TIFF"
    bytes_ = [encoded(noise(i, (5, 3), mode), form) for i in range(2)]
    plain = [encoded(noise(9, (5, 3)))] if first else []
    want = [Image.open(io.BytesIO(one)) for one in plain + bytes_]
    np.testing.assert_array_equal(files(tmp_path, plain + bytes_).train[0], pixels(want))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_have_one_channel(mode, tmp_path):
    images = [noise(i, (5, 3), mode) for i in range(2)]
    x, _ = files(tmp_path, images).train
    assert x.shape == (2, 1, 3, 5)
    np.testing.assert_array_equal(x, pixels(images, "L"))


def test_sixteen_bits_become_eight_by_the_upper_ones(tmp_path):
    """Pillow cuts: everything above 255 would be white."""
    assert files(tmp_path, [GREY_16]).train[0].tolist() == [[[[0, 0, 1, 255]]]]
    mixed = files(tmp_path / "mixed", [noise(0, (4, 1)), GREY_16]).train[0]
    assert mixed[1].tolist() == [[[0, 0, 1, 255]]] * 3


def test_a_palette_with_transparency_needs_no_warning(tmp_path):
    image = noise(0, mode="P")
    see_through = encoded(image, transparency=bytes([0, 128, 255]))
    np.testing.assert_array_equal(files(tmp_path, [see_through]).train[0], pixels([image]))


def test_an_image_on_its_side_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image = noise(0, (5, 3))
    x, _ = files(tmp_path, [encoded(image, exif=exif)]).train
    np.testing.assert_array_equal(x, pixels([image.transpose(Image.Transpose.ROTATE_270)]))


def test_odd_exif_data_do_not_hide_an_image(tmp_path):
    image = noise(0, (16, 16))
    odd = encoded(image, "JPEG", exif=b"Exif\0\0nonsense")
    assert files(tmp_path, [odd]).train[0].shape == (1, 3, 16, 16)


def test_grey_among_colour_becomes_colour_but_not_the_reverse(tmp_path):
    grey, colour = noise(0, mode="L"), noise(1)
    np.testing.assert_array_equal(
        files(tmp_path / "a", [colour, grey]).train[0], pixels([colour, grey.convert("RGB")])
    )
    with pytest.raises(DataError, match=r'grey images, .* got one in colour in row 1 of the split "train"'):
        files(tmp_path / "b", [grey, colour])
    with pytest.raises(DataError, match=r'in colour in row 0 of the split "test"'):
        files(tmp_path / "c", [grey], [colour])
    # a set that says what it is needs no guess
    for side in (28, 32):
        both = [noise(0, (side, side), "L"), noise(1, (side, side))]
        for split in ("train", "test"):
            ten = labels([f"class {i}" for i in range(10)], [0, 0])
            parquet(tmp_path / f"{side}/{split}.parquet", both, label=ten)
    assert zoo.fashion_mnist(path=str(tmp_path / "28")).train[0].shape[1] == 1
    assert zoo.svhn(path=str(tmp_path / "32")).train[0].shape[1] == 3


def test_a_limit_does_not_change_what_a_row_looks_like(tmp_path):
    """Even where the sample begins with a grey image."""
    images = [noise(0), *(noise(i, mode="L") for i in range(1, 12))]
    everything = files(tmp_path, images).train[0]
    some = zoo.images(path=str(tmp_path), limit=3, seed=1)
    assert 0 not in some.ids
    np.testing.assert_array_equal(some.train[0], everything[some.ids])


def test_images_may_lie_as_bytes_without_a_word_that_they_are_images(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [encoded(noise(i)) for i in range(3)]
    for name, column in (("struct", [{"bytes": cell, "path": None} for cell in cells]), ("plain", cells)):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            table = pa.table({"picture": column, "label": ["a", "b", "a"]})
            pq.write_table(table, tmp_path / name / f"{split}.parquet")
        made = zoo.images(path=str(tmp_path / name), image="picture")
        np.testing.assert_array_equal(made.train[0], pixels([noise(i) for i in range(3)]))
    assert zoo.images(path=str(tmp_path / "struct")).names == ("a", "b")
    with pytest.raises(DataError, match="got the columns picture, label, none of which could be it"):
        zoo.images(path=str(tmp_path / "plain"))


# labels


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64", "uint64"])
def test_labels_may_be_whole_numbers(kind, tmp_path):
    import datasets

    for split, y in (("train", [0, 2, 5]), ("test", [5, 0])):
        images = [noise(i) for i in range(len(y))]
        parquet(tmp_path / f"{split}.parquet", images, label=(datasets.Value(kind), y))
    made = zoo.images(path=str(tmp_path))
    assert made.train[1].dtype == made.test[1].dtype == np.int64
    assert (made.train[1].tolist(), made.test[1].tolist()) == ([0, 2, 5], [5, 0])
    assert made.names == ("0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_labels_may_be_words_and_mean_the_same_in_both_splits(kind, tmp_path):
    import datasets

    for split, y in (("train", ["cow", "ant", "bee", "ant"]), ("test", ["cow", "bee"])):
        images = [noise(i) for i in range(len(y))]
        parquet(tmp_path / f"{split}.parquet", images, label=(datasets.Value(kind), y))
    made = zoo.images(path=str(tmp_path))
    assert made.names == ("ant", "bee", "cow")
    assert (made.train[1].tolist(), made.test[1].tolist()) == ([2, 0, 1, 0], [2, 1])


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (
            (["a", "b"], [0, None]),
            None,
            r'the split "train", got 1 without one in "label": take out the rows',
        ),
        ((["a", "b"], [0, -1]), None, r'the split "train", got 1 without one in "label"'),
        ((["a", "b"], [0, 1]), (["a", "b"], [-1, -1]), r'the split "test", got 2 without one in "label"'),
        (
            ["a", "b"],
            ["a", "c"],
            r'got "c" in "test", which no training row has: a label must mean one class',
        ),
        ([0, 1], [0, 2], r'got "2" in "test", which no training row has'),
        ([0, 10**6], None, r"expected classes 0\.\.65535 in the column \"label\", got 1000000"),
        ([0.0, 1.0], None, "expected a column of classes, got the columns image, label, none of which"),
    ],
)
def test_what_is_no_label(train, test, says, tmp_path):
    for split, y in (("train", train), ("test", test or train)):
        parquet(
            tmp_path / f"{split}.parquet",
            [noise(0), noise(1)],
            label=labels(*y) if isinstance(y, tuple) else y,
        )
    with pytest.raises(DataError, match=says):
        zoo.images(path=str(tmp_path))


# columns


def test_columns_that_tell_rows_are_kept_and_others_are_not(tmp_path):
    import datasets

    n = 6
    two_classes(
        tmp_path,
        subject=["ann", "bob"] * 3,
        long=(datasets.Value("large_string"), ["x", "y"] * 3),
        year=[1999, 2001] * 3,
        small=(datasets.Value("uint8"), [1, 2] * 3),
        good=[True, False] * 3,
        source=(datasets.ClassLabel(names=["lab", "web"]), [0, 1, None, 0, 1, -1]),
        unknown=(datasets.Value("string"), ["ann", None] * 3),
        score=[0.5] * n,
        holes=(datasets.Value("int64"), [1, None] * 3),
        text=["z" * 257] * n,
        boxes=(datasets.List(datasets.Value("int64")), [[1, 2]] * n),
        grid=(datasets.Array2D((1, 2), "int32"), [[[1, 2]]] * n),
    )
    found = {
        name: values.tolist()
        for name, values in zoo.images(path=str(tmp_path), label="label").columns.items()
    }
    assert found == {
        "subject": ["ann", "bob"] * 3,
        "long": ["x", "y"] * 3,
        "year": [1999, 2001] * 3,
        "small": [1, 2] * 3,
        "good": [True, False] * 3,
        "source": ["lab", "web", "", "lab", "web", ""],
        "unknown": ["ann", ""] * 3,
    }


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"image": "imag"}, r'column "imag" of images: none is called so, did you mean "image"\?'),
        ({"label": "lable"}, r'column "lable" of classes: none is called so, did you mean "label"\?'),
        ({"image": "label"}, r'images in the column "label", got int64: name another as data\.image'),
        ({"label": "image"}, r'whole numbers or words in the column "image", got .*: a label names a class'),
        ({"label": "score"}, r'whole numbers or words in the column "score", got float64'),
    ],
)
def test_columns_that_are_none(knobs, says, tmp_path):
    two_classes(tmp_path, score=[0.5] * 6)
    with pytest.raises(DataError, match=says):
        zoo.images(path=str(tmp_path), **knobs)


# what is refused


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({4: b"nonsense"}, r"an image in row 4 of .*\(UnidentifiedImageError: cannot identify image file\)"),
        ({4: encoded(noise(0, (64, 64)))[:900]}, r"an image in row 4 of .*\(OSError: .*truncated"),
        ({4: b""}, "an image in row 4 of"),
        ({4: None}, "an image in row 4 of"),
        ({0: b"nonsense"}, "an image in row 0 of"),
        ({2: encoded(Image.new("F", (8, 8)), "TIFF")}, r"row 2 .* 32 bits of Pillow's mode F"),
        ({3: noise(0, (8, 9))}, r"of one size .* got 8 x 8 in row 0 and 8 x 9 in row 3: bring them to one"),
        ({3: b"nonsense", 5: b"more"}, "in row 3 of"),
    ],
)
@pytest.mark.parametrize("limited", [False, True])
def test_an_image_that_does_not_fit_is_named(rows, says, limited, tmp_path):
    """By its place among all rows, also where a sample is taken."""
    images = [rows.get(i, noise(i, (8, 8))) for i in range(6)]
    # alone in its class, the row is in every stratified sample of 5
    y = [int(i == min(rows)) for i in range(6)] if limited else [0] * 6
    kinds = labels(["a", "b"], y)
    parquet(tmp_path / "train.parquet", images, label=kinds)
    parquet(tmp_path / "test.parquet", [noise(0, (8, 8))], label=labels(["a", "b"], [0]))
    with pytest.raises(DataError, match=says) as caught:
        zoo.images(path=str(tmp_path), limit=5 if limited else None)
    assert " at 0x" not in str(caught.value)


def test_a_file_that_is_no_image_is_named(tmp_path):
    class_folders(
        tmp_path, {"train/cat": [noise(0), noise(1)], "test/cat": [noise(2)], "train/dog": [noise(3)]}
    )
    (tmp_path / "train/cat/001.png").write_bytes(b"nonsense")
    with pytest.raises(
        DataError, match=r'in row 1 of the split "train" \(".*/train/cat/001\.png"\), got some'
    ):
        zoo.images(path=str(tmp_path))


def test_test_images_have_the_size_of_training_images(tmp_path):
    with pytest.raises(DataError, match="test images of 4 x 4, as the training images are, got 5 x 4"):
        files(tmp_path, [noise(0)], [noise(1, (5, 4))])
    assert zoo.images(path=str(tmp_path), size=3).test[0].shape == (1, 3, 3, 3)


def test_what_datasets_prints_and_sets_is_put_back(tmp_path, capfd):
    import datasets

    datasets.enable_progress_bars()
    try:
        level = datasets.logging.get_verbosity()
        (two_classes(tmp_path) / "README.md").write_text("A page without a head.\n")
        capfd.readouterr()
        zoo.images(path=str(tmp_path))
        (tmp_path / "train.parquet").write_bytes(b"no parquet")
        with pytest.raises(DataError, match=r"cannot be read as one .*Parquet magic bytes not found"):
            zoo.images(path=str(tmp_path))
        assert capfd.readouterr() == ("", "")
        assert not datasets.are_progress_bars_disabled()
        assert datasets.logging.get_verbosity() == level
    finally:
        datasets.disable_progress_bars()


# the cache


@pytest.fixture
def sealed(monkeypatch):
    """From here on nothing can be decoded."""
    return lambda: monkeypatch.setattr(decode, "_loaded", None)


def same(a, b):
    for one, other in ((a.train, b.train), (a.test, b.test)):
        for left, right in zip(one, other, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    assert (a.ids.tolist(), a.names) == (b.ids.tolist(), b.names)
    assert {k: v.tolist() for k, v in a.columns.items()} == {k: v.tolist() for k, v in b.columns.items()}


def test_the_second_read_decodes_nothing(tmp_path, sealed, monkeypatch):
    two_classes(tmp_path, subject=["ann", "bob"] * 3, good=[True, False] * 3)
    first = zoo.images(path=str(tmp_path), limit=5)
    sealed()
    same(zoo.images(path=str(tmp_path), limit=5), first)
    # it is the folder that counts, not how it is named
    monkeypatch.chdir(tmp_path.parent)
    same(zoo.images(path=f"./{tmp_path.name}/../{tmp_path.name}", limit=5), first)


def test_the_second_start_does_not_import_datasets(tmp_path):
    two_classes(tmp_path)
    zoo.images(path=str(tmp_path))
    code = (
        "import sys; from secateur import zoo\n"
        f"assert zoo.images(path={str(tmp_path)!r}).train[0].shape == (6, 3, 8, 8)\n"
        "print({'datasets', 'pyarrow', 'pandas'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_each_knob_of_the_bytes_has_its_own_entry(tmp_path):
    two_classes(tmp_path, kind=labels(["x", "y"], [0, 0, 1, 1, 0, 1]))
    asked = [{}, {"size": 4}, {"limit": 4}, {"limit": 4, "seed": 1}, {"label": "kind"}, {}]
    makes = [zoo.images(path=str(tmp_path), **{"label": "label", **knobs}) for knobs in asked]
    shapes = [made.train[0].shape for made in makes]
    assert shapes == [(6, 3, 8, 8), (6, 3, 4, 4), (4, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8), (6, 3, 8, 8)]
    assert makes[2].ids.tolist() != makes[3].ids.tolist()
    assert makes[4].names == ("x", "y")
    same(makes[0], makes[5])


@pytest.fixture
def folder(tmp_path):
    return class_folders(
        tmp_path / "one", {"train/cat": [noise(0), noise(1)], "test/cat": [noise(2)], "train/dog": [noise(3)]}
    )


def read_again(folder):
    return zoo.images(path=str(folder)).train[0]


def test_a_changed_file_is_decoded_anew(folder):
    zoo.images(path=str(folder))
    noise(7).save(folder / "train/cat/001.png")
    np.testing.assert_array_equal(read_again(folder), pixels([noise(0), noise(7), noise(3)]))
    noise(8).save(folder / "train/cat/002.png")
    assert len(read_again(folder)) == 4
    (folder / "train/cat/000.png").unlink()
    np.testing.assert_array_equal(read_again(folder), pixels([noise(7), noise(8), noise(3)]))


def bitmap(folder):
    """Of one size in bytes, whatever is on it."""
    return folder / "train/cat/000.bmp"


def test_a_file_replaced_under_its_old_time_and_size_is_decoded_anew(folder):
    """As unpacking an archive leaves it, or a copy that keeps times."""
    noise(3).save(bitmap(folder))
    before = bitmap(folder).stat()
    zoo.images(path=str(folder))
    noise(4).save(bitmap(folder))
    os.utime(bitmap(folder), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert bitmap(folder).stat().st_size == before.st_size
    np.testing.assert_array_equal(read_again(folder)[0], pixels([noise(4)])[0])


def test_two_folders_with_files_of_the_same_names_sizes_and_times_are_two(folder, tmp_path):
    noise(3).save(bitmap(folder))
    other = shutil.copytree(folder, tmp_path / "two")
    noise(4).save(bitmap(other))
    for place in (folder, other):
        for file in place.rglob("*.*"):
            os.utime(file, ns=(0, 0))
    np.testing.assert_array_equal(read_again(folder)[0], pixels([noise(3)])[0])
    np.testing.assert_array_equal(read_again(other)[0], pixels([noise(4)])[0])


def test_what_lies_behind_a_link_counts(tmp_path):
    """The hub's own cache is full of links to files that are called by their contents."""
    held = two_classes(tmp_path / "held")
    linked = tmp_path / "linked"
    linked.mkdir()
    for split in ("train", "test"):
        (linked / f"{split}.parquet").symlink_to(held / f"{split}.parquet")
    (linked / "gone.parquet").symlink_to(held / "nowhere")
    assert len(zoo.images(path=str(linked)).train[0]) == 6
    two_classes(held, n=7)
    assert len(zoo.images(path=str(linked)).train[0]) == 7


def test_a_cache_that_cannot_be_written_costs_a_warning_and_no_more(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"^decoded images cannot be kept in .*/file \(.+\), so the"
        ) as caught:
            made = zoo.images(path=str(folder))
        assert len(caught) == 1
        np.testing.assert_array_equal(made.train[0], pixels([noise(0), noise(1), noise(3)]))


def test_a_fault_leaves_nothing_in_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    (folder / "test/cat/000.png").write_bytes(b"nonsense")
    with pytest.raises(DataError):
        zoo.images(path=str(folder))
    assert not (tmp_path / "cache").exists()
    noise(2).save(folder / "test/cat/000.png")
    assert len(zoo.images(path=str(folder)).test[0]) == 1


# progress


class Bars:
    def __init__(self):
        self.seen = []

    def bar(self, label, total):
        self.seen.append((label, total, []))
        return nullcontext(self.seen[-1][2].append)


def test_it_shows_how_far_it_has_come(folder):
    bars = Bars()
    zoo.images(path=str(folder), progress=bars)
    assert [(label, total, sum(done)) for label, total, done in bars.seen] == [
        ("decoding train", 3, 3),
        ("decoding test", 1, 1),
    ]
    zoo.images(path=str(folder), progress=bars)
    assert len(bars.seen) == 2
