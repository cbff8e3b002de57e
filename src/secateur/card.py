"""Cards, and their shelves: a folder is the catalogue, a file's name is the method's name."""

from __future__ import annotations

import importlib
import inspect
import operator
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.errors import UsageError, nearest, told


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a step or an audit says of itself.

    Attributes:
        summary: What it does, in one sentence.
        paper: Who described it first, and where.
        data: The data that it needs, in words.
        version: The version of its numbers: raised with every change that moves a result.
        anew: True for a step that starts from a new initialisation. The driver then hands it a freshly
            initialised model with the masks, so its result depends on masks, depth, knobs and the rows it
            reads, and on nothing else.
    """

    summary: str
    paper: str = ""
    data: str = ""
    version: int = 1
    anew: bool = False


class Shelf(Mapping[str, type[Any]]):
    """The methods of one package: kebab-case names to classes, found by looking at the files.

    A file ``l1_sparse.py`` in the package or in a folder below it holds the class ``L1Sparse``, which plans
    and commands call ``l1-sparse``. Files with a leading underscore are not on the shelf. Nothing is imported
    before it is asked for.
    """

    def __init__(self, package: str, folder: Path) -> None:
        self.package = package
        self._modules = dict(sorted(_walk(package, folder)))

    def __getitem__(self, name: str) -> type[Any]:
        stem = name.replace("-", "_")
        found: type[Any] = getattr(importlib.import_module(self._modules[name]), camel(stem))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    @property
    def classes(self) -> dict[str, str]:
        """Class name to the module that holds it."""
        return {camel(module.rpartition(".")[2]): module for module in self._modules.values()}

    def find(self, use: str) -> type[Any]:
        """The class behind a name on this shelf, or behind an address ``package.module:Class``.

        Args:
            use: A kebab-case name or an address.

        Returns:
            The class; an outside one must carry a ``card``.

        Raises:
            UsageError: Nothing is there, or what is there is no class with a card.
        """
        kind = self.package.rpartition(".")[2].removesuffix("s")
        if ":" not in use:
            if use not in self._modules:
                raise UsageError(f'no {kind} is called "{use}": {nearest(use, self)}')
            return self[use]
        found = resolve(use)
        if not inspect.isclass(found) or not isinstance(getattr(found, "card", None), Card):
            raise UsageError(
                f'expected "{use}" to be a class with a `card`, got {found!r}: a {kind} '
                "carries a secateur.Card"
            )
        return found

    def face(self) -> tuple[Callable[[str], type[Any]], Callable[[], list[str]]]:
        """``__getattr__`` and ``__dir__`` for the package: ``steps.L1Sparse`` imports no other step."""
        classes = self.classes

        def find(name: str) -> type[Any]:
            if name not in classes:
                raise AttributeError(f"module {self.package!r} has no attribute {name!r}")
            found: type[Any] = getattr(importlib.import_module(classes[name]), name)
            return found

        return find, lambda: sorted([*classes, "shelf"])


def name_of(cls: type[Any]) -> str:
    """What plans call a class: kebab case for one on a shelf of ours, its address for one from outside."""
    package, _, stem = cls.__module__.rpartition(".")
    ours = package.startswith(("secateur.steps", "secateur.audits")) and cls.__name__ == camel(stem)
    return stem.replace("_", "-") if ours else f"{cls.__module__}:{cls.__qualname__}"


def camel(stem: str) -> str:
    """The name of the class in a file.

    Args:
        stem: The file's name, in snake case.

    Returns:
        The class's, in mechanical camel case.

    >>> camel("l1_sparse"), camel("synflow"), camel("u_lira")
    ('L1Sparse', 'Synflow', 'ULira')
    """
    return "".join(part.capitalize() for part in stem.split("_"))


def resolve(address: str) -> Any:
    """The object at ``package.module:name``.

    Args:
        address: Where to look, on Python's import path.

    Returns:
        Whatever stands there.

    Raises:
        UsageError: The address has no such form, the module cannot be imported, or the name is not in it.
    """
    module, _, name = address.partition(":")
    if not module or not name:
        raise UsageError(f'expected an address "package.module:name", got "{address}"')
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f'cannot import "{module}" for "{address}" ({error}): install it, or run from the '
            "folder that holds it"
        ) from error
    except Exception as error:  # a module of somebody else's can raise anything
        raise UsageError(f'cannot import "{module}" for "{address}": {told(error)}: correct it') from error
    try:
        return operator.attrgetter(name)(found)  # dotted, as in ``__qualname__``
    except AttributeError as error:
        raise UsageError(f'"{module}" holds no "{name}": correct the address "{address}"') from error


def _walk(package: str, folder: Path) -> Iterator[tuple[str, str]]:
    for info in pkgutil.iter_modules([str(folder)]):
        if info.name.startswith("_"):
            continue
        module = f"{package}.{info.name}"
        if info.ispkg:
            yield from _walk(module, folder / info.name)
        else:
            yield info.name.replace("_", "-"), module
