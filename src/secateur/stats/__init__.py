"""Statistics that hold: pure functions of numpy arrays, which know nothing of models, steps or audits."""

from secateur.stats.attacks import lira_scores, rmia_scores
from secateur.stats.bootstrap import bootstrap
from secateur.stats.equivalence import Equivalence, benjamini_hochberg, tost
from secateur.stats.intervals import (
    Interval,
    clopper_pearson,
    mean_share,
    mean_size,
    prediction_interval,
    share_difference,
    share_interval,
    wilson,
)
from secateur.stats.one_run import one_run_epsilon
from secateur.stats.predictor import mia_efficacy, mia_privacy
from secateur.stats.privacy import epsilon_ceiling, epsilon_lower_bound
from secateur.stats.roc import delong, roc_auc, tpr_at_fpr
from secateur.stats.scores import jensen_shannon, logit_confidence, modified_entropy, tug_of_war

__all__ = [
    "Equivalence",
    "Interval",
    "benjamini_hochberg",
    "bootstrap",
    "clopper_pearson",
    "delong",
    "epsilon_ceiling",
    "epsilon_lower_bound",
    "jensen_shannon",
    "lira_scores",
    "logit_confidence",
    "mean_share",
    "mean_size",
    "mia_efficacy",
    "mia_privacy",
    "modified_entropy",
    "one_run_epsilon",
    "prediction_interval",
    "rmia_scores",
    "roc_auc",
    "share_difference",
    "share_interval",
    "tost",
    "tpr_at_fpr",
    "tug_of_war",
    "wilson",
]
