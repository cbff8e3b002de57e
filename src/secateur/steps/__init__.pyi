# Written by python tools/generate.py: types for names that are loaded lazily. Do not edit.

from secateur.card import Shelf
from secateur.steps.prune.grasp import Grasp as Grasp
from secateur.steps.prune.iterative import Iterative as Iterative
from secateur.steps.prune.magnitude import Magnitude as Magnitude
from secateur.steps.prune.random import Random as Random
from secateur.steps.prune.snip import Snip as Snip
from secateur.steps.prune.synflow import Synflow as Synflow
from secateur.steps.train import Train as Train
from secateur.steps.unlearn.fine_tune import FineTune as FineTune
from secateur.steps.unlearn.fisher import Fisher as Fisher
from secateur.steps.unlearn.gradient_ascent import GradientAscent as GradientAscent
from secateur.steps.unlearn.influence import Influence as Influence
from secateur.steps.unlearn.l1_sparse import L1Sparse as L1Sparse
from secateur.steps.unlearn.newton import Newton as Newton
from secateur.steps.unlearn.prune_and_tune import PruneAndTune as PruneAndTune
from secateur.steps.unlearn.retrain import Retrain as Retrain

shelf: Shelf
