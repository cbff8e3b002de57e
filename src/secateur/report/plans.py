"""A plan as TOML text, so that a reader of the page can run it again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def plan_text(plan: Mapping[str, Any]) -> str:
    """The plan as TOML. What TOML cannot say (null) is left out: it means the default.

    >>> print(plan_text({"seed": 0, "data": {"use": "cifar10"}, "step": [{"use": "train", "epochs": 2}]}))
    seed = 0
    data = { use = "cifar10" }
    <BLANKLINE>
    [[step]]
    use = "train"
    epochs = 2

    Returns:
        Text that ``tomllib`` reads back.
    """
    tables = {key: value for key, value in plan.items() if _is_tables(value)}
    blocks = ["\n".join(_lines({key: value for key, value in plan.items() if key not in tables}))]
    for key, several in tables.items():
        blocks += ["\n".join([f"[[{_key(key)}]]", *_lines(table)]) for table in several]
    return "\n\n".join(block for block in blocks if block)


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(_lines(value))
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value if item is not None) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _is_tables(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(v, Mapping) for v in value)
    )
