"""What is asked of any network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.errors import DataError
from secateur.network import check_fits, copy_model, fill, probe, sparsity_of


def build():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


class Keeps(nn.Linear):
    def forward(self, x):
        self.kept = super().forward(x)
        return self.kept


def test_check_fits_names_the_first_faults_and_counts_the_rest():
    check_fits(build().state_dict(), build())
    with pytest.raises(DataError, match=r"0.bias is missing; .*and \d+ more"):
        check_fits(nn.Linear(4, 5).state_dict(), build())
    with pytest.raises(DataError, match=r"bias has shape \(3,\), not \(2,\)"):
        check_fits(nn.Linear(4, 3).state_dict(), nn.Linear(4, 2))


def test_a_model_that_keeps_an_activation_cannot_be_copied():
    model = Keeps(4, 3)
    model(torch.ones(1, 4))
    with pytest.raises(DataError, match="it keeps an activation or a handle"):
        copy_model(model)


def test_fill_leaves_no_sign_and_no_nan():
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, torch.nan, -0.0]]))
    fill(model, {"weight": torch.zeros(1, 3, dtype=torch.bool)})
    assert model.weight.detach().numpy().tobytes() == bytes(12)


def test_sparsity_is_of_parameters_with_more_than_one_dimension():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        model[0].bias.zero_()
    assert sparsity_of(model) == 0.25
    assert sparsity_of(nn.BatchNorm1d(2)) == 0.0


def test_probe_counts_the_classes():
    assert probe(build().eval(), torch.ones(2, 4)) == 3
    with pytest.raises(DataError, match=r"batch of shape \(2, 5\), but it raised RuntimeError"):
        probe(build().eval(), torch.ones(2, 5))
