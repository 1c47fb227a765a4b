"""Squared distances by the network simplex, several at a time, each by a process of its own."""

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import ot
from jaxtyping import ArrayLike


def squared_w2(x: np.ndarray, y: np.ndarray) -> float:
    """$W_2^2$ of two clouds of as many points."""
    costs = ot.dist(np.asarray(x, np.float64), np.asarray(y, np.float64), metric="sqeuclidean")
    return float(ot.emd2([], [], costs, numItermax=10_000_000))


class Evaluations:
    """Squared distances on the way, while something else is trained."""

    def __init__(self, workers: int):
        # A fork of a process that has used JAX may hang.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, mp_context=context)

    def of(self, xs: ArrayLike, ys: ArrayLike) -> list[Future[float]]:
        """Those of pairs of clouds, shapes (k, n, d)."""
        pairs = zip(np.asarray(xs), np.asarray(ys), strict=True)
        return [self.pool.submit(squared_w2, x, y) for x, y in pairs]


def results(futures: list[Future[float]]) -> list[float]:
    return [future.result() for future in futures]
