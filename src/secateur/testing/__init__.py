"""For tests, ours and yours: small real problems, and checks of every promise that a step or an audit makes.

A method from outside joins the table of promises with one line::

    def test_promises():
        secateur.testing.check_step(MyStep(epochs=1))
"""

from secateur.testing.audits import check_audit
from secateur.testing.problems import Problem, toy_evidence, toy_problem
from secateur.testing.promises import Broken
from secateur.testing.steps import check_step

__all__ = ["Broken", "Problem", "check_audit", "check_step", "toy_evidence", "toy_problem"]
