"""Statistics that hold: pure functions of numpy arrays, which know nothing of models, steps or audits."""

from secateur.stats.intervals import (
    Interval,
    mean_share,
    mean_size,
    prediction_interval,
    share_difference,
    share_interval,
    wilson,
)
from secateur.stats.predictor import mia_efficacy, mia_privacy
from secateur.stats.roc import delong, roc_auc

__all__ = [
    "Interval",
    "delong",
    "mean_share",
    "mean_size",
    "mia_efficacy",
    "mia_privacy",
    "prediction_interval",
    "roc_auc",
    "share_difference",
    "share_interval",
    "wilson",
]
