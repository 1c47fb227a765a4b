"""Static transport beside other libraries, each pair in one run: exact transport, assignments, the
line, slices, Sinkhorn and Knopp, soft sorting, barycentres of clouds, points from a sampler.

    .venv/bin/python benchmarks/static.py                     # a quarter of an hour
    .venv/bin/python benchmarks/static.py --quick             # does it run?
    .venv/bin/python benchmarks/static.py --parts exact line

Contestants take turns, after a first call of each; the median counts. Each has its error, by one
measure for all of a row, which the row names. Results go to one JSON file for each machine. Let
nothing else run meanwhile.
"""

import datetime
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
import tyro
from accelerator import describe_device, versions
from scipy.optimize import linear_sum_assignment

import otjax


class Row(NamedTuple):
    """What is computed; who computes it, otjax first; how wrong a result is, and in what unit."""

    name: str
    contestants: dict[str, Callable[[], Any]]
    error: Callable[[Any], float]
    measure: str
    repeats: int = 3


@dataclass(frozen=True)
class Options:
    """What is timed."""

    parts: tuple[str, ...] = ()
    """Of `PARTS`; none is all."""
    quick: bool = False
    """Small sizes: does it run?"""
    output: pathlib.Path | None = None
    """The JSON file; by default benchmarks/results/static_<device>.json."""


Part = Callable[[bool], Iterator[Row]]


def ready(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*args))


def clouds(n: int, d: int, clusters: int | None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + d)
    x, y = rng.normal(size=(2, n, d))
    if clusters is not None:
        centres = 10 * rng.normal(size=(clusters, d))
        # Both sides have as many points in each cluster.
        x, y = (0.1 * v + centres[np.arange(n) % clusters] for v in (x, y))
    return x, y


def exact(quick: bool) -> Iterator[Row]:
    """Squared distances whose bounds meet within 1e-4 of the cost."""
    cases = [(1024, 2, None), (1024, 64, None), (2000, 2, 25), (4096, 2, None), (4096, 64, None)]
    for n, d, clusters in [(64, 2, None), (60, 2, 4)] if quick else cases:
        x, y = clouds(n, d, clusters)
        costs = ot.dist(x, y)
        truth = ot.emd2([], [], costs, numItermax=10**9)

        def ours(x, y):
            return otjax.wasserstein(x, y, gap=1e-4) ** 2

        yield Row(
            f"exact, n = {n}, d = {d}" + (f", {clusters} clusters" if clusters else ""),
            {
                "otjax": ready(ours, jnp.asarray(x), jnp.asarray(y)),
                "POT": lambda x=x, y=y: ot.emd2([], [], ot.dist(x, y), numItermax=10**9),
            },
            lambda found, truth=truth: abs(float(found) - truth) / truth,
            "of the cost",
        )


def assignments(quick: bool) -> Iterator[Row]:
    """Square matrices of independent costs."""
    rng = np.random.default_rng(0)
    k, n = (4, 8) if quick else (256, 128)
    many = rng.uniform(size=(k, n, n))
    best = sum(matrix[linear_sum_assignment(matrix)].sum() for matrix in many)

    def cost(columns) -> float:
        return sum(float(m[np.arange(n), c].sum()) for m, c in zip(many, columns, strict=True))

    def by_scipy():
        return np.stack([linear_sum_assignment(matrix)[1] for matrix in many])

    def by_optax(matrices):
        rows, columns = jax.vmap(optax.assignment.hungarian_algorithm)(matrices)
        return jnp.take_along_axis(columns, jnp.argsort(rows, axis=1), axis=1)

    yield Row(
        f"{k} assignments of {n}",
        {
            "otjax": ready(lambda c: jax.vmap(otjax.assignment)(c).columns, jnp.asarray(many)),
            "SciPy": by_scipy,
            "optax": ready(by_optax, jnp.asarray(many)),
        },
        lambda columns: abs(cost(np.asarray(columns)) - best) / best,
        "of the cost",
    )
    one = rng.uniform(size=(16, 16) if quick else (1024, 1024))
    least = one[linear_sum_assignment(one)].sum()
    yield Row(
        f"assignment of {len(one)}",
        {
            "otjax": ready(lambda c: otjax.assignment(c).value, jnp.asarray(one)),
            "SciPy": lambda: one[linear_sum_assignment(one)].sum(),
        },
        lambda value: abs(float(value) - least) / least,
        "of the cost",
        5,
    )


def line(quick: bool) -> Iterator[Row]:
    """Sorted points, and slices in 16 dimensions by the same directions."""
    rng = np.random.default_rng(0)
    n, d, k = (100, 4, 4) if quick else (100_000, 16, 50)
    x, y = rng.normal(size=(2, n))
    truth = ot.wasserstein_1d(x, y, p=2) ** 0.5
    yield Row(
        f"line, n = {n}",
        {
            "otjax": ready(lambda x, y: otjax.wasserstein_1d(x, y), jnp.asarray(x), jnp.asarray(y)),
            "POT": lambda: ot.wasserstein_1d(x, y, p=2) ** 0.5,
        },
        lambda found: abs(float(found) - truth) / truth,
        "of the distance",
        5,
    )
    xs, ys = rng.normal(size=(2, n, d))
    ys += 0.5
    key = jax.random.key(0)
    directions = np.asarray(otjax.random_directions(key, k, d, dtype=jnp.float64)).T
    sliced = lambda: ot.sliced_wasserstein_distance(xs, ys, projections=directions)
    truth_sliced = sliced()
    yield Row(
        f"{k} slices, n = {n}, d = {d}",
        {
            "otjax": ready(
                lambda x, y: otjax.sliced_wasserstein(x, y, num_projections=k, key=key),
                jnp.asarray(xs),
                jnp.asarray(ys),
            ),
            "POT": sliced,
        },
        lambda found: abs(float(found) - truth_sliced) / truth_sliced,
        "of the distance",
    )


def matrices(quick: bool) -> Iterator[Row]:
    """Doubly stochastic matrices, a batch, to marginals within 1e-4."""
    from ott.geometry import geometry  # pyright: ignore[reportMissingImports]
    from ott.problems.linear import linear_problem  # pyright: ignore[reportMissingImports]
    from ott.solvers.linear import sinkhorn  # pyright: ignore[reportMissingImports]

    k, n = (4, 8) if quick else (1024, 64)
    logs = 2 * np.random.default_rng(0).normal(size=(k, n, n))
    ones = np.full(n, 1 / n)
    solver = sinkhorn.Sinkhorn(threshold=5e-5, max_iterations=5000)

    def by_ott(log):
        out = solver(linear_problem.LinearProblem(geometry.Geometry(-log, epsilon=1.0)))
        return n * out.matrix

    def by_pot():
        # Its error is of squares of one marginal.
        solve = lambda log: ot.sinkhorn(ones, ones, -log, 1.0, stopThr=4e-6, numItermax=5000)
        return n * np.stack([solve(log) for log in logs])

    def ours(log):
        return otjax.sinkhorn_knopp_log(log, tolerance=1e-4).matrix

    def error(found) -> float:
        off = lambda axis: np.abs(np.asarray(found).sum(axis) - 1).mean(1)
        return float((off(1) + off(2)).max())

    yield Row(
        f"{k} doubly stochastic {n} x {n}",
        {
            "otjax": ready(jax.vmap(ours), jnp.asarray(logs)),
            "OTT-JAX": ready(jax.vmap(by_ott), jnp.asarray(logs)),
            "POT": by_pot,
        },
        error,
        "L1 of the marginals, the worst",
    )


def sorting(quick: bool) -> Iterator[Row]:
    """Soft sorting at each library's defaults, of which OTT-JAX's has no reverse mode."""
    from ott.tools import soft_sort  # pyright: ignore[reportMissingImports]

    x = np.random.default_rng(0).normal(size=20 if quick else 1000)
    yield Row(
        f"soft sort of {len(x)}",
        {
            "otjax": ready(lambda x: otjax.soft_sort(x), jnp.asarray(x)),
            "OTT-JAX": ready(lambda x: soft_sort.sort(x), jnp.asarray(x)),
        },
        lambda found: float(np.abs(np.asarray(found) - np.sort(x)).mean() / x.std()),
        "mean distance from the sorted, in deviations",
        5,
    )


def barycenters(quick: bool) -> Iterator[Row]:
    """Points of a barycentre of clouds, from one start, and the objective that they reach."""
    from ott.problems.linear import barycenter_problem  # pyright: ignore[reportMissingImports]
    from ott.solvers.linear import (  # pyright: ignore[reportMissingImports]
        continuous_barycenter,
        sinkhorn,
    )

    k, n, m = (2, 16, 8) if quick else (5, 500, 200)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(k, n, 2)) @ np.diag([2.0, 0.5]) + 3 * rng.normal(size=(k, 1, 2))
    start, masses = points[0, :m], np.full((k, n), 1 / n)
    epsilon = 0.05 * float(np.mean(ot.dist(points.reshape(-1, 2), start)))
    solver = continuous_barycenter.FreeWassersteinBarycenter(
        sinkhorn.Sinkhorn(threshold=1e-4, max_iterations=5000), threshold=1e-6, max_iterations=200
    )

    def by_ott(points, start):
        problem = barycenter_problem.FreeBarycenterProblem(
            points, jnp.asarray(masses), epsilon=epsilon
        )
        return solver(problem, bar_size=m, x_init=start).x

    def ours(points, start):
        return otjax.barycenter(
            points, epsilon=epsilon, support=start, tolerance=1e-3, throw=False
        ).points

    @jax.jit
    def objective(y):
        def cost(x):
            problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon)
            return otjax.solve(problem, throw=False).value

        return jnp.mean(jax.vmap(cost)(jnp.asarray(points)))

    given = jnp.asarray(points), jnp.asarray(start)
    yield Row(
        f"barycentre of {k} clouds of {n}, {m} points",
        {"otjax": ready(ours, *given), "OTT-JAX": ready(by_ott, *given)},
        lambda y: float(objective(y)),
        "the objective itself",
    )


def semidiscrete(quick: bool) -> Iterator[Row]:
    """From a normal distribution to points in 64 dimensions, at an epsilon of 5 % of the mean cost,
    both by Adam with one schedule, in as many steps as lead to one error."""
    from ott.geometry import semidiscrete_pointcloud  # pyright: ignore[reportMissingImports]
    from ott.problems.linear import (  # pyright: ignore[reportMissingImports]
        semidiscrete_linear_problem,
    )
    from ott.solvers.linear import semidiscrete as peer  # pyright: ignore[reportMissingImports]

    m, d, k = (200, 4, 16) if quick else (50_000, 64, 256)
    # Errors fall as one over the number of steps.
    num_ours, num_theirs = (400, 400) if quick else (300, 540)
    rng = np.random.default_rng(0)
    y = jnp.asarray(1.5 * rng.normal(size=(m, d)), jnp.float32)
    draw = lambda key: jax.random.normal(key, (k, d), jnp.float32)
    costs = otjax.PointCloud(draw(jax.random.key(0)), y).all_costs()
    epsilon = 0.05 * float(jnp.mean(costs))
    rate = 0.1 * float(jnp.mean(costs) - jnp.min(costs))
    ascent = otjax.StochasticAscent(max_steps=num_ours, num_tests=2)
    solver = peer.SemidiscreteSolver(
        num_iterations=num_theirs,
        batch_size=k,
        optimizer=optax.adam(optax.cosine_decay_schedule(rate, num_theirs)),
        error_eval_every=num_theirs,
        error_num_repeats=2,
        threshold=0.0,
    )

    def ours(y):
        found = otjax.semidiscrete(
            draw, y, key=jax.random.key(1), epsilon=epsilon, ascent=ascent, throw=False
        )
        return found.potential_sites

    def by_ott(y):
        geometry = semidiscrete_pointcloud.SemidiscretePointCloud(
            lambda key, shape, dtype: jax.random.normal(key, shape, dtype), y, epsilon=epsilon
        )
        problem = semidiscrete_linear_problem.SemidiscreteLinearProblem(geometry)
        return solver(jax.random.key(1), problem).g

    @jax.jit
    def chi_squared(g):
        """Without bias, by products of the masses of different batches."""

        def lack(key):
            scores = (g[None, :] - otjax.PointCloud(draw(key), y).all_costs()) / epsilon
            return jnp.sqrt(m) * (jnp.mean(jax.nn.softmax(scores, axis=1), axis=0) - 1 / m)

        def add(sums, key):
            one = lack(key)
            return (sums[0] + one, sums[1] + jnp.sum(jnp.square(one))), None

        num = 400
        zeros = jnp.zeros_like(g), jnp.zeros((), g.dtype)
        keys = jax.random.split(jax.random.key(2), num)
        (total, squares), _ = jax.lax.scan(add, zeros, keys)
        return (jnp.sum(jnp.square(total)) - squares) / (num * (num - 1))

    yield Row(
        f"semi-discrete, {m} points, d = {d}",
        {"otjax": ready(ours, y), "OTT-JAX": ready(by_ott, y)},
        lambda g: float(chi_squared(g)),
        "chi-squared of the masses",
        1,
    )


PARTS: dict[str, Part] = {
    "exact": exact,
    "assignments": assignments,
    "line": line,
    "matrices": matrices,
    "sorting": sorting,
    "barycenters": barycenters,
    "semidiscrete": semidiscrete,
}


def measure(row: Row) -> dict[str, Any]:
    """Everybody's median time, and error."""
    times: dict[str, list[float]] = {name: [] for name in row.contestants}
    errors = {name: row.error(run()) for name, run in row.contestants.items()}
    for _ in range(row.repeats):
        for name, run in row.contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(each) for name, each in times.items()}
    return {"row": row.name, "seconds": seconds, "errors": errors, "measure": row.measure}


def main(options: Options) -> None:
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"error: --parts are {', '.join(PARTS)}, got {', '.join(unknown)}.")
    jax.config.update("jax_enable_x64", True)
    device = describe_device()
    beside = pathlib.Path(__file__).parent / f"results/static_{device['slug']}.json"
    output = options.output or beside
    rows = json.loads(output.read_text())["rows"] if output.exists() else []
    for name in options.parts or PARTS:
        for row in PARTS[name](options.quick):
            record = measure(row)
            print(json.dumps(record), flush=True)
            rows = [*(old for old in rows if old["row"] != row.name), record]
            report = {"device": device, "versions": versions(), "rows": rows}
            report["date"] = datetime.date.today().isoformat()
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
