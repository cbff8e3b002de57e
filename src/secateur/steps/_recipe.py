"""What every step that trains by SGD can be told: one set of knobs, so that one name has one meaning."""

from __future__ import annotations

from dataclasses import dataclass

from secateur import knobs
from secateur.errors import UsageError
from secateur.knobs import Batch, Clip, Decay, Epochs, Lr, Momentum, Nesterov, Schedule, WarmUp
from secateur.maths import schedules
from secateur.optimize import Sgd


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Knobs of SGD, with the defaults of the paper's pretraining."""

    epochs: Epochs = 182
    batch: Batch = 256
    lr: Lr = 0.1
    momentum: Momentum = 0.9
    nesterov: Nesterov = False
    decay: Decay = 5e-4
    schedule: Schedule = "step"
    warm_up: WarmUp = 0.0
    clip: Clip = None

    def __post_init__(self) -> None:
        # knobs that are wrong one by one are told by ``apply``, all at once; here, those that clash
        if not knobs.check(self):
            self._check_together()

    def _check_together(self) -> None:
        if self.nesterov and not self.momentum:
            raise UsageError(
                "nesterov = true looks ahead along the momentum, and momentum is 0: set one of them"
            )

    def sgd(self, *, start: int = 0, ascend: bool = False) -> Sgd:
        """The optimizer; ``start`` is the epoch of the schedule to begin at."""
        schedule = {
            "constant": schedules.constant,
            "step": schedules.step(),
            "cosine": schedules.cosine,
            "one-cycle": schedules.one_cycle(),
        }[self.schedule]
        return Sgd(
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            decay=self.decay,
            schedule=schedules.resumed(schedules.warmed_up(schedule, self.warm_up), start / self.epochs),
            ascend=ascend,
        )
