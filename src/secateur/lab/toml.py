"""Plans as TOML text: ``tomllib`` reads and does not write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def to_toml(table: Mapping[str, Any]) -> str:
    """A plan as TOML, which ``tomllib`` reads back to equal values.

    Args:
        table: Plain values; tables at the top become sections, lists of tables ``[[sections]]``.

    Returns:
        The text.

    >>> print(to_toml({"seed": 0, "step": [{"use": "train", "lr": 0.1}]}), end="")
    seed = 0
    <BLANKLINE>
    [[step]]
    use = "train"
    lr = 0.1
    """
    plain, sections = [], []
    for key, value in table.items():
        several = isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value)
        if isinstance(value, Mapping):
            sections.append(f"\n[{_key(key)}]\n{_lines(value)}")
        elif several:
            sections += [f"\n[[{_key(key)}]]\n{_lines(one)}" for one in value]
        else:
            plain.append(f"{_key(key)} = {_inline(value)}\n")
    return "".join([*plain, *sections]).lstrip("\n")


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_inline(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        whole = f"[{', '.join(map(_inline, value))}]"
        if len(whole) <= 100 or not any(isinstance(one, (list, Mapping)) for one in value):
            return whole
        return "[\n" + "".join(f"  {_inline(one)},\n" for one in value) + "]"
    return str(value)  # numbers, dates and times: as Python writes them, so TOML does


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
