"""Random problems at the edges of what numbers can be, against bounds in float64.

    .venv/bin/python benchmarks/fuzz.py --examples 10000 --workers 8    # twenty minutes, about
    .venv/bin/python benchmarks/fuzz.py --examples 50 --seed 7

A problem is made of one integer. What is right of it is bounded by NumPy in float64: the dual at
any potentials from below, the primal at a plan made of them from above; that a few hundred Sinkhorn
steps of NumPy begin at the potentials of otjax makes neither bound less true. A number is wrong if
it says that it is right and is beyond them by more than a thousandth of the size of the costs, and
so is a success whose plan has not the marginals that it claims, or a NaN. Sizes vary by masses of
zero and dimensions by coordinates of zero, so that few programs are compiled.
"""

import argparse
import functools
import json
import multiprocessing
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from accelerator import processor_name
from scipy.special import logsumexp

import otjax
from otjax._results import name_of


SIZES = {"small": (7, 5), "middle": (40, 33), "large": (300, 200)}
DIMENSION = 50
# geometry, marginals, dtype
KINDS = [
    ("points", "balanced", "float32"),
    ("points", "balanced", "float64"),
    ("streamed", "unbalanced", "float32"),
    ("matrix", "balanced", "float32"),
    ("matrix", "balanced", "float64"),
    ("matrix", "semi-relaxed", "float32"),
    ("matrix", "unbalanced", "float32"),
    ("matrix", "unbalanced", "float64"),
]


# Nothing is proven of the value; a count of these tells how much the rest is worth.
UNKNOWN = ["(the bounds are far apart)"]


class Problem(NamedTuple):
    """Numbers of a problem, in its dtype, and which program solves it."""

    kind: tuple[str, str, str]
    support: tuple[np.ndarray, ...]  # points x and y, or a matrix
    a: np.ndarray
    b: np.ndarray
    epsilon: np.ndarray
    rho: tuple[np.ndarray, np.ndarray]


class Answer(NamedTuple):
    """What otjax says."""

    solution: otjax.Solution
    numbers: Any  # all that must be finite


def problem(seed: int, sizes: tuple[str, ...] = tuple(SIZES)) -> Problem:
    """The problem of a seed."""
    rng = np.random.default_rng(seed)
    kind, (n, m) = program_of(rng, sizes)
    dtype = np.dtype(kind[2])
    x, y = _points(rng, n), _points(rng, m)
    a, b = _masses(rng, n), _masses(rng, m)
    total = 1.0
    if kind[1] == "unbalanced":
        total = 10 ** rng.uniform(-2, 2)
        b = b * 10 ** rng.uniform(-1, 1)
    a, b = (total * masses for masses in (a, b))
    scale = 10 ** rng.uniform(-15, 15) if rng.random() < 0.5 else 1.0
    offset = rng.choice([0, 0, 1e2, 1e4])
    if kind[0] == "matrix":
        cost = np.square(x[:, None] - y[None, :]).sum(-1)
        if rng.random() < 0.3:
            cost -= cost.mean()
        if rng.random() < 0.4:
            cost = _with_forbidden(rng, cost, a, b)
        cost = np.abs(scale) * (cost + offset * np.nanmean(np.abs(cost[np.isfinite(cost)])))
        support: tuple[np.ndarray, ...] = (cost.astype(dtype),)
    else:
        support = ((x + offset) * scale).astype(dtype), ((y + offset) * scale).astype(dtype)
    # Numbers below the normal ones are zero to XLA.
    a, b = (np.where(m < np.finfo(dtype).tiny, 0, m).astype(dtype) for m in (a, b))
    spread = _spread(_costs(support), a, b)
    epsilon = spread * 10 ** rng.uniform(-9, 7)
    # Costs far below zero make mass out of nothing, in the end more than there are numbers for.
    least = max(-_costs(support).min(), 0) / 20 if kind[1] == "unbalanced" else 0
    penalty = lambda: np.asarray(max(spread * 10 ** rng.uniform(-2, 5), least), dtype)
    rho = penalty(), penalty()
    return Problem(kind, support, a, b, np.asarray(epsilon, dtype), rho)


def program_of(
    rng: np.random.Generator, sizes: tuple[str, ...]
) -> tuple[tuple[str, str, str], tuple[int, int]]:
    """The kind and the shape, which are what is drawn first."""
    return KINDS[rng.integers(len(KINDS))], SIZES[sizes[rng.integers(len(sizes))]]


def _points(rng: np.random.Generator, n: int) -> np.ndarray:
    x = np.zeros((n, DIMENSION))
    d = rng.integers(1, DIMENSION + 1)
    x[:, :d] = rng.normal(size=(n, d)) * rng.choice([0.01, 1.0, 1.0]) + rng.normal(size=d)
    shape = rng.integers(4)
    if shape == 0:  # duplicates
        x = np.round(x)
    if shape == 1:  # clusters far apart
        x += 30 * rng.integers(0, 3, size=(n, 1))
    return x


def _masses(rng: np.random.Generator, n: int) -> np.ndarray:
    masses = np.ones(n)
    shape = rng.integers(3)
    if shape == 1:
        masses = rng.uniform(0.1, 1, n)
    if shape == 2:  # tails down to underflow
        logits = rng.normal(size=n) * rng.choice([3.0, 20.0])
        masses = np.exp(logits - logits.max())
    absent = rng.random(n) < rng.choice([0.0, 0.3, 0.9])
    absent[np.argmax(masses)] = False
    masses[absent] = 0
    return masses / masses.sum()


def _with_forbidden(rng, cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A band around the monotone plan stays, so that there is a plan of the masses."""
    at_a, at_b = np.cumsum(a) / a.sum(), np.cumsum(b) / b.sum()
    below_a, below_b = at_a - a / a.sum(), at_b - b / b.sum()
    band = (at_a[:, None] >= below_b[None] - 1e-6) & (at_b[None] >= below_a[:, None] - 1e-6)
    return np.where(band | (rng.random(cost.shape) < rng.choice([0.2, 0.9])), cost, np.inf)


def _costs(support: tuple[np.ndarray, ...]) -> np.ndarray:
    """In float64, of the numbers that otjax gets."""
    if len(support) == 1:
        return support[0].astype(np.float64)
    x, y = (points.astype(np.float64) for points in support)
    return np.square(x[:, None] - y[None, :]).sum(-1)


def _spread(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """The mean cost above the least, of allowed pairs with a mass."""
    weights = np.where(np.isfinite(cost), a[:, None].astype(float) * b, 0)
    there = weights > 0
    if not there.any():
        return 1.0
    mean = (weights[there] * cost[there]).sum() / weights[there].sum()
    return max(mean - cost[there].min(), 1e-7 * np.abs(cost[there]).max()) or 1.0


def ask(given: Problem) -> Answer:
    """What otjax says of a problem: a solution, and derivatives of its value."""
    geometry, marginals, _ = given.kind
    program = _program(geometry, marginals)
    (_, solution), gradient = program(given.support, given.a, given.b, given.epsilon, *given.rho)
    plan = solution.marginals
    f, g = solution.potentials
    f, g = np.where(given.a > 0, f, 0), np.where(given.b > 0, g, 0)
    return Answer(solution, (solution.value, solution.value_linear, f, g, plan, gradient))


_PROGRAMS: dict[tuple[str, str], Callable] = {}


def _program(geometry: str, marginals: str) -> Callable:
    def value(support, a, b, epsilon, rho_a, rho_b):
        sides = {
            "balanced": (otjax.Balanced(), otjax.Balanced()),
            "semi-relaxed": (otjax.Balanced(), otjax.Unbalanced(rho_b)),
            "unbalanced": (otjax.Unbalanced(rho_a), otjax.Unbalanced(rho_b)),
        }[marginals]
        if geometry == "matrix":
            space = otjax.CostMatrix(*support)
        else:
            engine = otjax.Streamed(64) if geometry == "streamed" else otjax.Dense()
            space = otjax.PointCloud(*support, engine=engine)
        stated = otjax.EntropicProblem(space, a, b, epsilon=epsilon, marginals=sides)
        solution = otjax.solve(stated, throw=False)
        return solution.value, solution

    if (geometry, marginals) not in _PROGRAMS:
        everything = jax.value_and_grad(value, argnums=(0, 1, 2, 3, 5), has_aux=True)
        _PROGRAMS[geometry, marginals] = jax.jit(everything)
    return _PROGRAMS[geometry, marginals]


def faults(given: Problem, answer: Answer) -> list[str]:
    """What is wrong with an answer; nothing, one hopes."""
    solution, result = answer.solution, answer.solution.result
    found = []
    for path, leaf in jax.tree.leaves_with_path(answer.numbers):
        if not np.all(np.isfinite(np.asarray(leaf)) | _overflows(given, answer, path)):
            found.append(f"not finite: {jax.tree_util.keystr(path)}")
    cost, (a, b) = _costs(given.support), (m.astype(np.float64) for m in (given.a, given.b))
    if given.kind[1] == "balanced":
        b = b * (a.sum() / b.sum())
    if result == otjax.RESULTS.infeasible and _may_be_infeasible(given, cost, a, b):
        return found
    rhos = _rhos(given)
    epsilon = float(solution.epsilon)
    # Costs and potentials without a constant that all costs share, which took their digits.
    unit, constant = float(solution.prepared.unit), float(solution.constant)
    f, g = (np.asarray(p, np.float64) * unit for p in solution.inner)
    cost = cost - constant
    if not (np.all(np.isfinite(f)) and np.all(np.isfinite(g)) and np.isfinite(epsilon)):
        return found
    if result == otjax.RESULTS.successful:
        error = _marginal_error(cost, a, b, epsilon, rhos, f, g)
        eps = float(np.finfo(given.kind[2]).eps)
        # A point of less than the mean mass counts by that share.
        size = sum(
            (np.abs(potential) * np.minimum(masses / masses.mean(), 1)).max()
            for potential, masses in ((f, a), (g, b))
        )
        floor = eps * (size + _norms(given)) / epsilon
        least = 1e-4 if given.kind[2] == "float32" else 1e-9
        if not error <= 2 * np.clip(4 * floor, least, 2**-4):
            found.append(
                f"successful with a marginal error of {error:.1e} at a floor of {floor:.1e}"
            )
    else:
        # What is left short says so; a value beside it is the best that was found.
        return found
    lower, upper = bounds(cost, a, b, epsilon, rhos, f, g)
    weights = np.where(np.isfinite(cost), a[:, None] * b, 0)
    there = weights > 0
    size = (weights[there] * np.abs(cost[there])).sum() / weights.sum() * np.sqrt(a.sum() * b.sum())
    size = max(size, abs(constant) * a.sum(), abs(lower), abs(upper) if np.isfinite(upper) else 0)
    value = float(solution.value) - constant * 0.5 * (a.sum() + b.sum())
    if not np.isfinite(cost).all() or given.kind[2] == "float64":
        # Mass is known to rounding, and counts `epsilon` times; what it is above that of the
        # product is known better only in single precision, and where no pair is forbidden.
        size += 3e4 * float(np.finfo(given.kind[2]).eps) * epsilon * a.sum() * b.sum()
    if not lower - 1e-3 * size <= value <= upper + 1e-3 * size:
        found.append(f"value {value:.6e} is not in [{lower:.6e}, {upper:.6e}], size {size:.1e}")
    elif upper - lower > 1e-2 * size:
        found += UNKNOWN
    return found


def _norms(given: Problem) -> float:
    """What costs are rounded by, beside themselves: those of points in many dimensions come from a
    product of centred ones, of the size of their squared norms."""
    if len(given.support) == 1:
        return 0.0
    x, y = (points.astype(np.float64) for points in given.support)
    norms = (np.square(points - y.mean(0)).sum(1) for points in (x, y))
    return sum(
        norm[masses > 0].max() for norm, masses in zip(norms, (given.a, given.b), strict=True)
    )


def _overflows(given: Problem, answer: Answer, path: tuple) -> np.ndarray | bool:
    """Where a number is infinite that is too large for the dtype: the derivative by a mass that is
    next to zero, of which a penalised side would have much."""
    sides = {(5, 1): 0, (5, 2): 1}
    side = sides.get(tuple(key.idx for key in path))
    if side is None:
        return False
    potential = np.asarray(answer.solution.potentials[side], np.float64)
    rho = _rhos(given)[side]
    if np.isinf(rho):
        return False
    with np.errstate(over="ignore"):
        derivative = rho * np.expm1(-potential / rho)
    # Its sum with another term, which may be of half the size.
    return np.abs(derivative) > 0.5 * float(np.finfo(given.kind[2]).max)


def _rhos(given: Problem) -> tuple[float, float]:
    free = {"balanced": (False, False), "semi-relaxed": (False, True), "unbalanced": (True, True)}
    pairs = zip(free[given.kind[1]], given.rho, strict=True)
    first, second = (float(rho) if is_free else np.inf for is_free, rho in pairs)
    return first, second


def _may_be_infeasible(given: Problem, cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """Masses that are rounded may leave a band too narrow; alone are points with no partner."""
    return given.kind[1] != "unbalanced" and not np.isfinite(cost[a > 0][:, b > 0]).all()


def _plan(cost, a, b, epsilon, f, g) -> np.ndarray:
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        log_plan = (f[:, None] + g - cost) / epsilon + np.log(a)[:, None] + np.log(b)
        plan = np.exp(log_plan)
    return np.where((a > 0)[:, None] & (b > 0) & np.isfinite(cost), plan, 0)


def _asked(masses: np.ndarray, potential: np.ndarray, rho: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        return masses if np.isinf(rho) else masses * np.exp(-potential / rho)


def _marginal_error(cost, a, b, epsilon, rhos, f, g) -> float:
    plan = _plan(cost, a, b, epsilon, f, g)
    asked_a, asked_b = _asked(a, f, rhos[0]), _asked(b, g, rhos[1])
    row, column = (a > 0) & np.isfinite(cost).any(1), (b > 0) & np.isfinite(cost).any(0)
    error = np.abs(plan.sum(1) - asked_a)[row].sum() + np.abs(plan.sum(0) - asked_b)[column].sum()
    asked = 0.5 * (asked_a[row].sum() + asked_b[column].sum())
    return float(error / max(asked, 1e-7 * 0.5 * (a.sum() + b.sum())))


def bounds(cost, a, b, epsilon, rhos, f, g, steps: int = 300) -> tuple[float, float]:
    """Of the optimum, by Sinkhorn steps in float64 from any potentials, until they meet."""
    rows, columns = a > 0, b > 0
    cost, a, b = cost[rows][:, columns], a[rows], b[columns]
    f, g, log_a, log_b = f[rows], g[columns], np.log(a), np.log(b)
    damping = [1.0 if np.isinf(rho) else rho / (rho + epsilon) for rho in rhos]
    lower, upper = -np.inf, np.inf
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for step in range(steps):
            if step % 20 == 0:
                low, high = _dual(cost, a, b, epsilon, rhos, f, g), np.inf
                high = _primal(cost, a, b, epsilon, rhos, _plan(cost, a, b, epsilon, f, g))
                lower, upper = np.fmax(lower, low), np.fmin(upper, high)
                if upper - lower <= 1e-5 * np.abs(upper):
                    break
            f = -damping[0] * epsilon * logsumexp((g - cost) / epsilon + log_b, axis=1)
            g = -damping[1] * epsilon * logsumexp(((f - cost.T) / epsilon + log_a), axis=1)
            f, g = np.minimum(f, 1e300), np.minimum(g, 1e300)
    return float(lower), float(upper)


def _dual(cost, a, b, epsilon, rhos, f, g) -> float:
    scores = (f[:, None] + g - cost) / epsilon
    mass = np.sum(a[:, None] * b * np.expm1(np.where(np.isfinite(cost), scores, -np.inf)))
    value = -epsilon * mass
    for masses, potential, rho in ((a, f, rhos[0]), (b, g, rhos[1])):
        if np.isinf(rho):
            value += masses @ potential
        else:
            value -= rho * (masses @ np.expm1(-potential / rho))
    return value if np.isfinite(value) else -np.inf


def _primal(cost, a, b, epsilon, rhos, plan) -> float:
    """Of a plan that is made to have the marginals which are fixed (Altschuler et al. 2017)."""
    hard_a, hard_b = (np.isinf(rho) for rho in rhos)
    if not np.isfinite(plan).all():
        return np.inf
    if hard_a and hard_b:
        plan = plan * np.minimum(a / np.maximum(plan.sum(1), 1e-300), 1)[:, None]
        plan = plan * np.minimum(b / np.maximum(plan.sum(0), 1e-300), 1)
        left_a, left_b = a - plan.sum(1), b - plan.sum(0)
        missing = max(left_a.sum(), 0)
        if missing > 1e-15 * a.sum():
            plan = plan + np.maximum(left_a, 0)[:, None] * np.maximum(left_b, 0) / missing
            # What rounding leaves may go nowhere: with next to no mass that proves as much.
            if missing < 1e-6 * a.sum():
                plan = np.where(np.isfinite(cost), plan, 0)
    elif hard_a or hard_b:
        sums = plan.sum(1)[:, None] if hard_a else plan.sum(0)
        plan = plan * (a[:, None] if hard_a else b) / np.maximum(sums, 1e-300)
    used = plan > 0
    if np.any(used & ~np.isfinite(cost)):
        return np.inf
    product = a[:, None] * b
    log_ratio = np.log(np.where(used, plan / product, 1))
    # p log p - p + 1 for densities near 1, without what cancels.
    density = plan / product - 1
    near = np.abs(density) < 1e-3
    entropy = np.where(used, plan * log_ratio - plan + product, product)
    entropy = np.where(near, product * (density**2 / 2 - density**3 / 6), entropy)
    value = np.sum(plan[used] * cost[used]) + epsilon * np.sum(entropy)
    for sums, masses, rho in ((plan.sum(1), a, rhos[0]), (plan.sum(0), b, rhos[1])):
        if np.isfinite(rho):
            ratio = np.where(sums > 0, sums / masses, 1)
            value += rho * np.sum(np.where(sums > 0, sums * np.log(ratio), 0) - sums + masses)
    return float(value) if np.isfinite(value) else np.inf


class Verdict(NamedTuple):
    """What came of one problem."""

    result: str
    record: dict[str, Any] | None  # if something is wrong
    is_proven: bool  # whether the value has bounds that tell


def judged(seed: int, sizes: tuple[str, ...]) -> Verdict:
    given = problem(seed, sizes)
    answer = ask(given)
    result, found = name_of(answer.solution.result), faults(given, answer)
    if not found or found == UNKNOWN:
        return Verdict(result, None, found != UNKNOWN)
    shape = [len(given.a), len(given.b)]
    record = {"seed": seed, "kind": given.kind, "shape": shape, "result": result, "faults": found}
    return Verdict(result, record, True)


def verdicts(options: argparse.Namespace) -> Iterator[Verdict]:
    seeds = range(options.seed, options.seed + options.examples)
    judge = functools.partial(judged, sizes=tuple(options.sizes))
    if options.workers == 1:
        use_float64()
        yield from map(judge, seeds)
    else:
        # Sorted by what they compile, so that no process compiles everything.
        sizes = tuple(options.sizes)
        sorted_seeds = sorted(
            seeds, key=lambda seed: program_of(np.random.default_rng(seed), sizes)
        )
        chunksize = -(-len(seeds) // (8 * options.workers))
        context = multiprocessing.get_context("spawn")
        with context.Pool(options.workers, use_float64) as pool:
            yield from pool.imap_unordered(judge, sorted_seeds, chunksize=chunksize)


def use_float64() -> None:
    jax.config.update("jax_enable_x64", True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work")
    parser.add_argument("--deadline", type=float, default=np.inf, help="seconds")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    begun, results, faulty = time.time(), Counter(), []
    unproven = 0
    for verdict in verdicts(options):
        results[verdict.result] += 1
        unproven += not verdict.is_proven
        if verdict.record is not None:
            faulty.append(verdict.record)
            print(json.dumps(verdict.record), flush=True)
        if time.time() - begun > options.deadline:
            break
    report = {
        "examples": results.total(),
        "first_seed": options.seed,
        "sizes": options.sizes,
        "results": dict(results.most_common()),
        "faults": sorted(faulty, key=lambda record: record["seed"]),
        "values_without_bounds": unproven,
        "otjax": otjax.__version__,
        "jax": jax.__version__,
        "machine": processor_name(),
        "seconds": round(time.time() - begun),
    }
    print(json.dumps({key: report[key] for key in ("examples", "results", "seconds")}))
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
