"""The published numbers of the benchmark, from `published.csv`.

They are those of Korotin, Kolesov and Burnaev (NeurIPS 2022, arXiv:2206.07767), rounded to two
decimals: ten neural solvers and discrete transport (DOT), each run once, on their own funnels.
"""

import csv
import pathlib
from typing import NamedTuple


class Score(NamedTuple):
    """How well a critic's gradient and its estimate of W1 agree with the truth."""

    cos: float
    l2: float
    w1: float


# Of ours, which repeats which of theirs.
COUNTERPARTS = {"gp": "GP", "lp": "LP", "orthogonal": "SO", "clip": "WC", "spectral": "SN"}
NOT_NEURAL = ("truth", "DOT")


def published() -> dict[tuple[int, int], dict[str, Score]]:
    """The score of each solver, by name, for each dimension and number of funnels.

    The entry `truth` holds the true W1 of the published pair.
    """
    table: dict[tuple[int, int], dict[str, Score]] = {}
    with open(pathlib.Path(__file__).with_name("published.csv"), newline="") as file:
        for row in csv.DictReader(file):
            score = Score(float(row["cos"]), float(row["l2"]), float(row["w1"]))
            table.setdefault((int(row["dim"]), int(row["funnels"])), {})[row["solver"]] = score
    return table


def best_cos(scores: dict[str, Score]) -> tuple[str, float]:
    """The neural solver with the greatest cos, and that cos."""
    neural = {name: score.cos for name, score in scores.items() if name not in NOT_NEURAL}
    name = max(neural, key=lambda solver: neural[solver])
    return name, neural[name]
