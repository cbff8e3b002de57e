"""Shelves: a folder is the catalogue, a file's name is the method's name."""

import subprocess
import sys

import pytest

from secateur import audits
from secateur.card import Card, Shelf, camel, name_of, resolve
from secateur.errors import UsageError

METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from secateur.card import Card

@dataclass(frozen=True, kw_only=True)
class {name}:
    card: ClassVar[Card] = Card(summary="s", paper="p", data="d")

    class Inner:
        pass

class Bare:
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of methods on Python's path."""
    folder = tmp_path / "garden_methods"
    (folder / "deep").mkdir(parents=True)
    for name in ("", "deep/"):
        (folder / f"{name}__init__.py").write_text("")
    for stem in ("l1_sparse", "deep/u_lira", "_hidden", "deep/_hidden"):
        (folder / f"{stem}.py").write_text(METHOD.format(name=camel(stem.rpartition("/")[2])))
    (folder / "broken.py").write_text("raise RuntimeError('imported too early')")
    monkeypatch.syspath_prepend(tmp_path)
    yield Shelf("garden_methods", folder)
    for module in [name for name in sys.modules if name.startswith("garden_methods")]:
        del sys.modules[module]


def test_files_are_the_catalogue(package):
    assert sorted(package) == ["broken", "l1-sparse", "u-lira"]
    assert len(package) == 3
    assert package["l1-sparse"].__name__ == "L1Sparse"
    assert package.find("u-lira").__module__ == "garden_methods.deep.u_lira"
    assert package.classes["ULira"] == "garden_methods.deep.u_lira"


def test_unknown_names_get_the_nearest(package):
    with pytest.raises(UsageError, match=r'no garden_method is called "l1-spars": did you mean "l1-sparse"'):
        package.find("l1-spars")


def test_outside_classes_have_an_address(package):
    found = package.find("garden_methods._hidden:Hidden")
    assert isinstance(found.card, Card)
    assert name_of(found) == "garden_methods._hidden:Hidden"
    assert resolve(name_of(found)) is found
    assert resolve(name_of(found.Inner)) is found.Inner
    assert name_of(package["l1-sparse"]) == "garden_methods.l1_sparse:L1Sparse"


@pytest.mark.parametrize(
    "use", ["garden_methods._hidden:Bare", "os:getcwd", "garden_methods._hidden:Nothing"]
)
def test_an_address_of_no_method_is_refused(package, use):
    with pytest.raises(UsageError, match=use):
        package.find(use)


@pytest.mark.parametrize(
    "address", ["os", ":x", "os:", "no_such_module:x", ".relative:x", "a..b:c", "os:x.y"]
)
def test_addresses_that_lead_nowhere_are_refused(address):
    with pytest.raises(UsageError, match=r"expected an address|cannot import|holds no"):
        resolve(address)


def test_resolve_finds():
    assert resolve("secateur.card:Shelf") is Shelf


def test_the_face_is_lazy_and_honest():
    code = """
import sys
from secateur import audits
assert "secateur.audits.accuracy" not in sys.modules
assert audits.Accuracy.__name__ == "Accuracy"
assert "secateur.audits.retrain_gap" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {"Accuracy", "MiaEfficacy", "RetrainGap", "shelf"} <= set(dir(audits))
    with pytest.raises(AttributeError, match="Nothing"):
        audits.Nothing  # noqa: B018


def test_every_audit_on_the_shelf_carries_a_card():
    assert {"accuracy", "mia-efficacy", "retrain-gap"} <= set(audits.shelf)
    for name in audits.shelf:
        cls = audits.shelf[name]
        assert isinstance(cls.card, Card), name
        assert all((cls.card.summary, cls.card.paper, cls.card.data)), name
        assert name_of(cls) == name
