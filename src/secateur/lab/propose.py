"""What to try next: Optuna's tree-structured Parzen estimator, seeded, behind two calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from secateur.errors import UsageError
from secateur.lab.search import Between, Range

HARM = "harm"


class Proposals:
    """Settings to try, one after the other; the same seed and scores give the same ones.

    Args:
        ranges: Name of a knob to its range.
        seed: Of the sampler.
        bounded: Whether a setting may do too much harm to be chosen, as ``tell`` is then told.

    Raises:
        UsageError: Optuna is not installed.
    """

    def __init__(self, ranges: Mapping[str, Range], seed: int, *, bounded: bool = False) -> None:
        self._ranges = ranges
        harm = (lambda trial: trial.user_attrs[HARM]) if bounded else None
        with quiet() as optuna:
            sampler = optuna.samplers.TPESampler(seed=seed, constraints_func=harm)
            self._study = optuna.create_study(sampler=sampler)

    def ask(self) -> dict[str, Any]:
        """The next setting: name of a knob to its value, of four digits where it is no whole number."""
        with quiet():
            self._trial = self._study.ask()
            return {name: self._draw(name, values) for name, values in self._ranges.items()}

    def tell(self, score: float, harm: Sequence[float] = ()) -> None:
        """How it went with the setting that was asked for last.

        Args:
            score: Lower is better.
            harm: Where bounded: by how much each bound is broken; at most 0 where it is kept.
        """
        with quiet():
            self._trial.set_user_attr(HARM, list(harm))
            self._study.tell(self._trial, score)

    def _draw(self, name: str, values: Range) -> Any:
        if not isinstance(values, Between):
            # by number: the values may be anything that a plan can hold
            return values.values[self._trial.suggest_categorical(name, range(len(values.values)))]
        low, high, log = values.low, values.high, values.log
        if isinstance(low, int) and isinstance(high, int):
            return self._trial.suggest_int(name, low, high, log=log)
        drawn = float(f"{self._trial.suggest_float(name, low, high, log=log):.4g}")
        return min(max(drawn, float(low)), float(high))


@contextmanager
def quiet() -> Iterator[Any]:
    """Optuna, which neither logs nor warns while this lasts.

    Yields:
        The module.

    Raises:
        UsageError: It is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import optuna
        except ImportError as error:
            raise UsageError(
                "expected optuna, which proposes what secateur tune tries, and it is not installed: run "
                'pip install "secateur[tune]"'
            ) from error
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield optuna
        finally:
            optuna.logging.set_verbosity(before)
