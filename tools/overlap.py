"""How alike are two masks of the same size? ``python tools/overlap.py STORE FOLDER --plan PLAN``.

Of the runs of a plan, the masks that each original was trained under, two and two for every request and
sparsity: ``overlap.csv`` has the share of the weights kept by one that the other keeps too, and what that
share would be for masks drawn at random that keep as many weights in each layer.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

from curves import way_of
from results import of_plan, parser
from torch import Tensor
from transfer import ends

from secateur.errors import SecateurError
from secateur.record import Record

COLUMNS = ("request", "sparsity", "one", "other", "common", "by_chance")
Masks = Mapping[str, Tensor]


def lines(store: Path, records: Iterable[Record]) -> Iterator[dict[str, object]]:
    found: dict[tuple[str, float], dict[str, Masks]] = {}
    for one in ends(store, records):
        place = one.record.request, round(one.record.sparsity, 2)
        if one.before.masks:
            found.setdefault(place, {}).setdefault(way_of(one.record), one.before.masks)
    for (request, sparsity), masks in found.items():
        for (one, its), (other, theirs) in combinations(masks.items(), 2):
            common, chance = overlap(its, theirs)
            yield dict(zip(COLUMNS, (request, sparsity, one, other, common, chance), strict=True))


def overlap(its: Masks, theirs: Masks) -> tuple[float, float]:
    """The share of the weights kept by one mask that the other keeps, and that by chance."""
    kept = sum(int(mask.sum()) for mask in its.values())
    both = sum(int((mask & theirs[name]).sum()) for name, mask in its.items())
    drawn = sum(float(mask.sum()) * float(theirs[name].float().mean()) for name, mask in its.items())
    return round(both / kept, 4), round(drawn / kept, 4)


def main(store: Path, folder: Path, records: list[Record]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "overlap.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines(store, records))


if __name__ == "__main__":
    asked = parser(str(__doc__).splitlines()[0]).parse_args()
    try:
        main(asked.store, asked.folder, of_plan(asked.store, asked.plan, asked.set))
    except SecateurError as error:
        raise SystemExit(str(error)) from None
