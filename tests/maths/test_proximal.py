from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.maths.proximal import soft_threshold

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
AMOUNTS = st.floats(0, 1e3, allow_subnormal=False)


@given(st.lists(NUMBERS, min_size=1, max_size=20), AMOUNTS)
def test_it_is_the_formula_one_number_at_a_time(xs, amount):
    found = soft_threshold(torch.tensor(xs, dtype=torch.float64), amount).tolist()
    for x, z in zip(xs, found, strict=True):
        size = max(abs(x) - amount, 0.0)
        assert z == (size if x > 0 else -size)
        assert size or math.copysign(1, z) == 1, "a zero shows the sign of the weight"


@given(st.floats(-5, 5), st.floats(0, 3))
def test_it_minimises_the_distance_plus_the_penalty(x, amount):
    z = float(soft_threshold(torch.tensor([x], dtype=torch.float64), amount))

    def objective(at):
        return 0.5 * (at - x) ** 2 + amount * np.abs(at)

    assert objective(z) <= objective(np.linspace(-6, 6, 2001)).min() + 1e-12


def test_any_shape_and_type():
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 4, dtype=dtype)
        z = soft_threshold(x, 0.5)
        assert (z.shape, z.dtype) == (x.shape, dtype)
        assert torch.equal(soft_threshold(x, 0.0), x)
