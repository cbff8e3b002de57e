"""Records that older versions wrote are still read: an auditor keeps them for years."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.record import SCHEMA, Record

KEPT = sorted(Path(__file__).parent.glob("record-schema-*.json"))


def test_the_schema_of_today_is_among_them():
    assert f"record-schema-{SCHEMA}.json" in [path.name for path in KEPT]


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_record_is_read_and_written_as_it_was(path):
    text = path.read_text(encoding="utf-8")
    record = Record.from_json(text)
    told, kept = json.loads(record.to_json()), json.loads(text)
    if kept["schema"] == 1:  # what came later is empty, the rest as it was
        assert [(f.pop("controls"), f.pop("rows")) for f in told["findings"]] == [([], {})] * len(
            kept["findings"]
        )
        assert told.pop("schema") == SCHEMA
        assert kept.pop("schema") == 1
    assert told == kept
    assert record.method == "l1-sparse"
    assert record.sparsity == 0.5
    assert [step.label for step in record.steps] == ["train", "prune", "unlearn"]
    assert record.steps[2].drawn == {"retain": record.split["rows"]["retain"]}
    assert record.estimate("UA").n == record.split["rows"]["forget"]
    assert record.findings[1].verdict == "inconclusive"
