# Written by python tools/generate.py: types for names that are loaded lazily. Do not edit.

from secateur.card import Shelf
from secateur.steps.prune.magnitude import Magnitude as Magnitude
from secateur.steps.train import Train as Train
from secateur.steps.unlearn.fine_tune import FineTune as FineTune
from secateur.steps.unlearn.gradient_ascent import GradientAscent as GradientAscent
from secateur.steps.unlearn.l1_sparse import L1Sparse as L1Sparse
from secateur.steps.unlearn.retrain import Retrain as Retrain

shelf: Shelf
