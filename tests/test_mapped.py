"""Rows that stay where they are are drawn as those in memory are: the same rows, order and bits."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
import torch
from torch import Generator
from torch.utils.data import Dataset

import secateur as sc
from secateur.data import View, crop_flip, paired
from secateur.errors import DataError, UsageError
from secateur.lab.duplicates import duplicates
from secateur.mapped import CHUNK, limit
from secateur.mapped.ahead import read_ahead
from secateur.mapped.sources import Items, Rows
from secateur.split import Split
from secateur.table import Overlay, Table
from secateur.together import obstacle
from secateur.zoo import Patch

N, SHAPE = 150, (3, 8, 8)
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (N, *SHAPE), dtype=np.uint8)
FLOATS = RNG.random((N, *SHAPE), dtype=np.float32)
Y = np.arange(N) % 5


def rng(seed=0):
    return Generator().manual_seed(seed)


@pytest.fixture
def on_disk(tmp_path):
    """The same rows as an array that the kernel maps."""

    def write(x):
        np.save(tmp_path / "x.npy", x)
        return np.load(tmp_path / "x.npy", mmap_mode="r")

    return write


class Pairs(Dataset):
    """A data set that makes each item when it is asked for."""

    def __init__(self, x, y=Y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i].copy(), int(self.y[i])


def split(x, *, y=Y, **knobs):
    given = {"forget": range(0, N, 7), "holdout": [3, 4, 50], "augment": crop_flip(1), **knobs}
    return Split.of(x, y, **given) if y is not None else Split.of(x, **given)


def ways(x, on_disk):
    """The rows mapped in every way."""
    for workers in (0, 2):
        yield split(on_disk(x), memory="mapped", workers=workers)
        yield split(Pairs(x), y=None, memory="mapped", workers=workers)
    yield split(torch.from_numpy(x), memory="mapped")
    yield split(x, memory="mapped")


def same(a, b):
    pairs = list(zip(a, b, strict=True))
    assert pairs
    for one, other in pairs:
        assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))
        assert one.x.dtype == other.x.dtype
        assert one.x.stride() == other.x.stride()


@pytest.mark.parametrize("x", [BYTES, FLOATS], ids=["bytes", "floats"])
def test_the_same_rows_in_the_same_order_with_the_same_bits(x, on_disk):
    for there in ways(x, on_disk):
        kept = split(x, memory="in-memory")
        assert (kept.retain.memory, there.retain.memory) == ("in-memory", "mapped")
        assert there.retain.shape == SHAPE
        layout = torch.device("cpu"), torch.float32, torch.channels_last
        views = [s.retain.on(*layout) for s in (kept, there)]
        same(*(view.loader(epochs=3, batch=32, rng=rng(1)) for view in views))
        same(*(view.loader(epochs=1, batch=32, rng=rng(1), augment=False) for view in views))
        same(*(view.once(batch=40) for view in views))
        same(*(view.sample(20, rng()).once(batch=6) for view in views))
        assert views[0].drawn == views[1].drawn
        doubles = [
            s.pool.on(torch.device("cpu"), torch.float64, torch.contiguous_format) for s in (kept, there)
        ]
        same(*(view.once() for view in doubles))
        assert {name: view.fingerprint for name, view in kept.items()} == {
            name: view.fingerprint for name, view in there.items()
        }
        assert kept.pool.fingerprint == there.pool.fingerprint
        assert kept.hash == there.hash


def test_pairs_of_loaders_over_one_source(on_disk):
    loaders = []
    for given in (split(BYTES), split(on_disk(BYTES), memory="mapped", workers=2)):
        first = given.retain.loader(epochs=2, batch=40, rng=rng(1))
        loaders.append(paired(first, given.forget.loader(epochs=9, batch=10, rng=rng(2))))
    for (a, b), (c, d) in zip(*loaders, strict=True):
        same([a, b], [c, d])


def test_a_fingerprint_that_the_check_has_made_already(on_disk):
    whole = Table.read(FLOATS, Y, what="rows")
    there = Table.read(on_disk(FLOATS), Y, what="rows", memory="mapped")
    for at in (torch.arange(N), torch.arange(N).flip(0), torch.arange(5, 60), torch.arange(0)):
        assert View("a", there, at).fingerprint == View("a", whole, at).fingerprint
    far = Table.read(on_disk(FLOATS), Y, what="rows", ids=np.arange(N) + 1, memory="mapped")
    assert View("a", far, torch.arange(N)).fingerprint != View("a", whole, torch.arange(N)).fingerprint


def test_pieces_are_small_and_whole():
    x = np.zeros((5, CHUNK // 2), dtype=np.uint8)
    table = Table.read(x, [0] * 5, what="rows", memory="mapped")
    assert [len(piece) for piece in table.x.chunks()] == [2, 2, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [False, True])
def test_what_lies_over_rows_lies_over_mapped_ones(workers, after, on_disk):
    weight, pattern = torch.rand(8, 8, generator=rng()), torch.rand(3, 8, 8, generator=rng(1))
    views = []
    for memory, x in (("in-memory", BYTES), ("mapped", on_disk(BYTES))):
        table = Table.read(x, Y, what="rows", memory=memory, workers=workers)
        over = Overlay(torch.arange(N) % 2 == 0, weight, pattern, after=after)
        table = Table(table.x, table.y, table.ids, over)
        views.append(View("a", table, torch.arange(N), crop_flip(1)))
    same(*(view.loader(epochs=2, batch=32, rng=rng()) for view in views))
    same(*(view.once() for view in views))
    assert views[0].fingerprint == views[1].fingerprint


@pytest.mark.parametrize("x", [BYTES, FLOATS, FLOATS * 2], ids=["bytes", "floats", "not pictures"])
def test_poison_over_mapped_rows(x, on_disk):
    found = []
    for memory, rows in (("in-memory", x), ("mapped", on_disk(x))):
        train, test = (Table.read(rows, Y, what="rows", memory=memory) for _ in range(2))
        try:
            made = Patch().apply(train, test, np.arange(N), 0)
            found.append([View("a", t, torch.arange(N)).fingerprint for t in made[:2]])
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]
    assert ("images [n, c, h, w]" in str(found[0])) == (float(x.max()) > 1 and x.dtype == np.float32)


def net():
    return sc.zoo.small_cnn(channels=3, classes=5, width=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_and_an_unlearning_and_what_their_models_say(workers, on_disk):
    run = sc.Run(threads=1, device="cpu", precision="fp32")
    told = []
    for given in (split(BYTES), split(on_disk(BYTES), memory="mapped", workers=workers)):
        state = sc.State.of(net, given, run)
        traces = []
        for step in (
            sc.steps.Train(epochs=2, batch=32, lr=0.05),
            sc.steps.FineTune(epochs=1, batch=32, lr=0.01),
        ):
            state, trace = sc.apply(step, state, run)
            traces.append((trace.drawn, trace.notes))
        told.append((state.model.state_dict(), sc.observe(state.model, given, run), traces))
    (weights, said, traces), (others, others_said, others_traces) = told
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert said.keys() == others_said.keys() == {"forget", "retain", "holdout"}
    assert all(np.array_equal(said[name].logits, others_said[name].logits) for name in said)
    assert all(np.array_equal(said[name].rows, others_said[name].rows) for name in said)
    assert traces == others_traces


@pytest.mark.parametrize("use", ["fisher", "influence", "gradient-ascent"])
def test_steps_that_do_not_train_draw_the_same(use, on_disk):
    run = sc.Run(threads=1, device="cpu", precision="fp32")
    found = []
    for given in (split(BYTES), split(on_disk(BYTES), memory="mapped")):
        step = sc.steps.shelf[use]()
        found.append(sc.apply(step, sc.State.of(net, given, run), run).state.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_none_of_torchs_global_chance_is_used_up(on_disk):
    given = split(on_disk(BYTES), memory="mapped", workers=2)
    before = torch.get_rng_state()
    list(given.retain.loader(epochs=1, batch=20, rng=rng()))
    assert torch.equal(torch.get_rng_state(), before)


def test_whoever_wants_one_batch_starts_nothing(on_disk, monkeypatch):
    given = split(on_disk(BYTES), memory="mapped", workers=2)
    monkeypatch.setattr("threading.Thread.start", None)
    assert len(next(iter(given.retain.once(batch=2))).y) == 2
    assert len(list(given.retain.once())) == 1


def test_a_pass_that_is_left_leaves_nothing_behind(on_disk):
    import threading

    given = split(on_disk(BYTES), memory="mapped", workers=2)
    before = threading.active_count()
    drawn = given.retain.once(batch=10)
    next(drawn), next(drawn)
    assert threading.active_count() > before
    drawn.close()
    end = time.monotonic() + 30  # torch's own threads end a little later
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_memory_is_the_default_and_auto_tells_by_size_alone(tmp_path):
    assert split(BYTES).retain.memory == "in-memory"
    assert split(Pairs(BYTES), y=None).retain.memory == "in-memory"
    row = 2**26
    rows = limit() // row + 1  # a hole in a file: it takes no room
    big = np.memmap(tmp_path / "big", mode="w+", shape=(rows, row), dtype=np.uint8)
    given = Split.of(big, np.zeros(rows, dtype=int), forget=[0], test=(big[:2], [0, 0]))
    assert {name: view.memory for name, view in given.items()} == {
        "forget": "mapped",
        "retain": "mapped",
        "test": "in-memory",
    }
    assert given.forget.shape == (row,)


# ------------------------------------------------------------------------------------------------ bad input


class Moving(Pairs):
    """Augments by itself."""

    def __getitem__(self, i):
        return self.x[i] + np.random.default_rng().random(SHAPE, dtype=np.float32), int(self.y[i])


class Ragged(Pairs):
    def __getitem__(self, i):
        return self.x[i][..., : 8 - (i == 149)].copy(), int(self.y[i])


class Typed(Pairs):
    def __getitem__(self, i):
        return (self.x[i].astype(np.float64) if i == 149 else self.x[i].copy()), int(self.y[i])


class Torn(Pairs):
    def __getitem__(self, i):
        if i == 149:
            raise OSError("the disk is gone")
        return super().__getitem__(i)


class Dying(Pairs):
    """Kills the process that reads it, where that is not the one that made it."""

    def __init__(self, x):
        super().__init__(x)
        self.home = os.getpid()

    def __getitem__(self, i):
        if os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Moving, "item 0 of the training data to be the same on a second read, but it changed: take aug"),
        (Ragged, r"in one shape and type, \(3, 8, 8\) of torch.float32 .* got \(3, 8, 7\) .* in item 149"),
        (Typed, r"in one shape and type, .* got \(3, 8, 8\) of torch.float64 in item 149: resize"),
        (Torn, "item 149 of the training data, but the data set raised OSError: the disk is gone .*: mend"),
    ],
)
def test_data_sets_that_cannot_be_mapped(kind, words, workers):
    # 150 rows are one piece: the fault is met by whoever reads the second one
    with pytest.raises(DataError, match=words) as raised:
        split(kind(FLOATS), y=None, memory="mapped", workers=workers)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_in_a_later_piece_is_told_as_it_was_raised(workers):
    parts = torch.arange(N).tensor_split(5)
    device = torch.device("cpu")
    with pytest.raises(
        DataError, match=r"^expected item 149 of it, but the data set raised OSError: the disk"
    ):
        list(read_ahead(Items(Torn(FLOATS), "it"), parts, workers=workers, device=device, what="it"))


def test_a_process_that_dies():
    given = split(Dying(FLOATS), y=None, memory="mapped", workers=2)
    with pytest.raises(
        DataError, match="expected 2 processes to read the training data, but one of them died"
    ):
        list(given.retain.once(batch=10))


@pytest.mark.parametrize(
    ("given", "knobs", "words"),
    [
        ((np.where(BYTES == 5, np.nan, FLOATS), Y), {}, "finite values in the training data, got NaN"),
        ((Pairs(np.where(BYTES == 5, np.inf, FLOATS)),), {}, "finite values in the training data, got NaN"),
        (
            (BYTES, Y[:3]),
            {},
            r"one label for each row of the training data, got x  of shape \(150, 3, 8, 8\)",
        ),
        ((BYTES, Y * 1.0), {}, "labels of the training data as integers"),
        (({"a": BYTES}, Y), {}, "with one tensor as x, got a mapping"),
        (([({"a": BYTES[0]}, 0)] * 3,), {}, "with one tensor as x, got a mapping"),
        ((BYTES.tolist(), Y), {}, "as an array with shape and dtype, such as numpy.memmap, .* got list"),
        (([],), {}, "got an empty data set"),
        ((3,), {}, "map-style data set"),
        ((np.array([["a"]] * N), Y), {}, "the training data as numbers"),
    ],
)
def test_rows_that_cannot_be_mapped(given, knobs, words):
    with pytest.raises(DataError, match=words) as raised:
        Split.of(*given, forget=[0], memory="mapped", **knobs)
    assert "\n" not in str(raised.value)


class Lying:
    """An array that is not what it claims."""

    shape, dtype = (N, 3), np.dtype(np.float32)

    def __getitem__(self, at):
        if isinstance(at, slice):
            return np.zeros((1, 3), dtype=np.float32)
        if 149 in at:
            raise ValueError("no such row")
        return np.zeros((len(at), 3 if 7 not in at else 2), dtype=np.float32)


def test_an_array_that_is_not_what_it_claims():
    source = Rows(Lying(), "it")
    assert source.take(torch.tensor([1, 2])).x.shape == (2, 3)
    with pytest.raises(DataError, match=r"of it in one shape and type, \(3,\) of torch.float32, got \(2,\)"):
        source.take(torch.tensor([6, 7]))
    with pytest.raises(DataError, match="read rows of it, but its array raised ValueError: no such row"):
        source.take(torch.tensor([149]))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"memory": "disk"}, "memory to be one of auto, in-memory, mapped, got 'disk'"),
        ({"memory": "mapped", "workers": -1}, "workers from 0 on, processes that read rows, got -1"),
        ({"memory": "mapped", "workers": True}, "got True"),
    ],
)
def test_choices_that_there_are_not(knobs, words):
    with pytest.raises(UsageError, match=words):
        split(BYTES, **knobs)


def test_what_needs_rows_in_memory_says_so():
    given = split(BYTES, memory="mapped")
    with pytest.raises(DataError, match="rows in memory whose x is one tensor, got rows that are mapped"):
        given.retain.table(draws=0)
    run = sc.Run(threads=1, device="cpu", precision="fp32")
    state = sc.State.of(net, given, run)
    assert obstacle(sc.steps.Train(epochs=1), [state], run) == "its rows are mapped"


def test_duplicates_of_mapped_rows(monkeypatch):
    x = FLOATS.copy()
    x[[10, 90]] = x[[0, 7]]
    found = [duplicates(split(x, memory=memory)) for memory in ("in-memory", "mapped")]
    assert found[0] == found[1] == {"duplicates.near": 2.0, "duplicates.exact": 2.0}
    monkeypatch.setattr("secateur.lab.duplicates.HELD", 1)
    assert duplicates(split(x, memory="mapped")) == found[0]
