from __future__ import annotations

import subprocess
import sys
from types import FunctionType, ModuleType

import pytest

import secateur


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", secateur.__all__)
def test_every_public_name_is_there(name):
    assert getattr(secateur, name) is getattr(secateur, name)
    assert name in dir(secateur)


def test_names_that_are_modules_are_modules_and_the_others_are_not():
    for name in secateur.__all__:
        assert isinstance(getattr(secateur, name), ModuleType) == (name in secateur._MODULES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'secateur' has no attribute 'nonsense'"):
        _ = secateur.nonsense


@pytest.mark.parametrize(
    "imports",
    [
        "import secateur.observe, secateur.optimize",
        "import secateur; secateur.observe; secateur.optimize; import secateur.observe, secateur.optimize",
        "from secateur import observe, optimize; import secateur.optimize",
    ],
)
def test_observe_and_optimize_are_functions_in_any_order_of_imports(imports):
    code = (
        f"{imports}; import secateur as sc; from secateur import observe, optimize; both = observe, optimize"
    )
    assert python(
        f"{code}; print(both == (sc.observe, sc.optimize), *[type(one).__name__ for one in both])"
    ) == ("True function function")


def test_in_this_process_too():
    import secateur.observe
    import secateur.optimize

    assert isinstance(secateur.observe, FunctionType)
    assert isinstance(secateur.optimize, FunctionType)
    assert secateur.optimize.__module__ == "secateur.optimize"


@pytest.mark.parametrize(
    "use",
    [
        "secateur.Evidence, secateur.Outputs, secateur.judge, secateur.Record",
        "secateur.audits.shelf.find('accuracy'), secateur.stats, secateur.report",
        "secateur.__version__, dir(secateur)",
    ],
)
def test_the_judging_wing_never_waits_for_torch(use):
    assert python(f"import sys, secateur; {use}; print('torch' in sys.modules)") == "False"
