from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import UsageError
from secateur.run import Run, Silent

SEEDS, DEPTHS = st.integers(0, 2**31), st.integers(0, 9)


def bits(run, name, n=4):
    return torch.rand(n, generator=run.rng(name)).tolist()


@given(SEEDS, DEPTHS)
def test_a_stream_is_a_function_of_seed_depth_and_name(seed, depth):
    run = Run(seed=seed, depth=depth)
    first = bits(run, "order")
    run.rng("order"), run.rng("mask"), run.note("loss", 1.0), torch.rand(3)
    assert bits(run, "order") == first == bits(Run(seed=seed).at(depth), "order")
    others = [
        bits(run, "mask"),
        bits(run.at(depth + 1), "order"),
        bits(Run(seed=seed + 1, depth=depth), "order"),
    ]
    assert first not in others


def test_names_cannot_be_mistaken_for_seeds_or_depths():
    assert bits(Run(seed=1, depth=11), "a") != bits(Run(seed=11, depth=1), "a")
    assert bits(Run(seed=1, depth=1), "1/a") != bits(Run(seed=1, depth=1), "a")


def test_a_stream_is_the_same_in_another_process():
    draw = "torch.rand(4, generator=Run(seed=3).rng('order')).tolist()"
    code = f"import torch; from secateur.run import Run; print({draw})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(said) == bits(Run(seed=3), "order")


def test_seeded_puts_the_global_generator_back():
    run = Run(seed=5)
    before = torch.get_rng_state()
    with run.seeded("init"):
        first = torch.rand(3)
    with run.seeded("init"):
        again = torch.rand(3)
    with run.seeded("torch"):
        other = torch.rand(3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), run.seeded("init"):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_touches_no_other_generator():
    numpy, python = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    with Run(seed=5).seeded("init"):
        torch.rand(3)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == (numpy, python)  # noqa: NPY002


def test_steady_fixes_the_threads_and_puts_them_back():
    before = torch.get_num_threads()
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    with Run(threads=before + 1).steady(tf32=False):
        assert torch.get_num_threads() == before + 1
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_num_threads() == before
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == flags
    with pytest.raises(ZeroDivisionError), Run(threads=before + 1).steady():
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": -1}, "a seed that is a whole number"),
        ({"seed": True}, "a seed that is a whole number"),
        ({"seed": 1.0}, "a seed that is a whole number"),
        ({"precision": "fp16"}, "got 'fp16'"),
        ({"threads": 0}, "at least one thread"),
        ({"device": "cuda:99"}, 'use "cpu" or "auto"'),
        ({"device": "toaster"}, 'use "cpu" or "auto"'),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        Run(**given)


@pytest.mark.parametrize(
    ("precision", "dtype", "layout"),
    [
        ("fp32", torch.float32, torch.channels_last),
        ("bf16", torch.float32, torch.channels_last),
        ("fp64", torch.float64, torch.contiguous_format),
    ],
)
def test_precision_on_a_cpu(precision, dtype, layout):
    run = Run(device="cpu", precision=precision)
    assert (run.dtype, run.layout, run.resolved) == (dtype, layout, precision)
    a = torch.ones(2, 2)
    with run.autocast():
        assert (a @ a).dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


def test_auto_is_decided_by_the_hardware_and_told():
    run = Run(device="cpu")
    assert run.resolved in {"fp32", "bf16"}
    assert run.describe() == {
        "device": "cpu",
        "precision": run.resolved,
        "threads": torch.get_num_threads(),
        "world_size": 1,
        "torch": torch.__version__,
    }


def test_notes_are_a_step_s_own():
    run = Run()
    run.note("loss", 1)
    run.note("loss", torch.tensor(2.0))
    assert run.notes == {"loss": [1.0, 2.0]}
    assert run.at(3).notes == {}
    assert run.at(3).depth == 3
    assert run == Run()


def test_silent_progress():
    with Silent().bar("training", 3) as advance:
        advance(2)


def test_what_is_off_is_not_in_a_key():
    run = Run(device="cpu", precision="fp32", threads=1)
    off = run.describe()
    assert "accumulate" not in off
    assert replace(run, accumulate=2, recompute=True).describe() == off | {
        "accumulate": 2
    }  # recompute changes no bit
