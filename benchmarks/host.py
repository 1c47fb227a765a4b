"""What is right, in float64 by NumPy on the host: a reference that shares no code with otjax."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp


def clouds(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of float32 points, of different means and widths."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), 1 + 0.5 * rng.normal(size=(m, d))
    return x.astype(np.float32), y.astype(np.float32)


def mixtures(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two mixtures of Gaussians as clouds of float32 points: 4 components against 5."""
    rng = np.random.default_rng(seed)
    of_x, of_y = rng.normal(size=(4, d)), rng.normal(size=(5, d)) + 0.5
    x = of_x[rng.integers(4, size=n)] + 0.3 * rng.normal(size=(n, d))
    y = of_y[rng.integers(5, size=m)] + 0.4 * rng.normal(size=(m, d))
    return x.astype(np.float32), y.astype(np.float32)


def costs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The matrix of squared Euclidean distances."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    centre = y.mean(0)
    x, y = x - centre, y - centre
    return np.sum(x**2, 1)[:, None] + np.sum(y**2, 1)[None, :] - 2 * x @ y.T


def mean_cost(x: np.ndarray, y: np.ndarray) -> float:
    """The mean cost, without the matrix."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    spread = np.mean(np.sum((x - x.mean(0)) ** 2, 1)) + np.mean(np.sum((y - y.mean(0)) ** 2, 1))
    return float(spread + np.sum((x.mean(0) - y.mean(0)) ** 2))


def marginal_error(x: np.ndarray, y: np.ndarray, f: Any, g: Any, epsilon: float) -> float:
    """The L1 errors of both marginals of uniform measures, by blocks of rows."""
    f, g = np.asarray(f, np.float64), np.asarray(g, np.float64)
    n, m = len(x), len(y)
    row, column = np.zeros(n), np.zeros(m)
    for start in range(0, n, 1024):
        rows = slice(start, start + 1024)
        scores = (f[rows, None] + g[None, :] - costs(x[rows], y)) / epsilon
        plan = np.exp(scores) / (n * m)
        row[rows] = plan.sum(1)
        column += plan.sum(0)
    return float(np.abs(row - 1 / n).sum() + np.abs(column - 1 / m).sum())


class Truth(NamedTuple):
    """The solution of an entropic problem and the derivatives of its value, in float64."""

    f: np.ndarray
    g: np.ndarray
    value: float
    value_linear: float
    by_x: np.ndarray
    by_a: np.ndarray  # up to a constant, if balanced
    by_epsilon: float
    by_rho: float


def truth(
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    rho: float,
    near: Truth | None = None,
) -> Truth:
    """Solves with squared Euclidean costs, balanced if `rho` is infinite; from the solution of a
    problem that is `near`, if there is one."""
    cost = costs(x, y)
    start = _sinkhorn(cost, a, b, epsilon, rho) if near is None else (near.f, near.g)
    f, g = _newton(cost, a, b, epsilon, rho, *start)
    scores = (f[:, None] + g[None, :] - cost) / epsilon
    plan = a[:, None] * np.exp(scores) * b[None, :]
    excess = plan.sum() - a.sum() * b.sum()
    dual_f, dual_g = _dual(f, rho), _dual(g, rho)
    x, y = x.astype(np.float64), y.astype(np.float64)
    return Truth(
        f=f,
        g=g,
        value=float(a @ dual_f + b @ dual_g - epsilon * excess),
        value_linear=float(np.sum(plan * cost)),
        by_x=2 * (plan.sum(1)[:, None] * x - plan @ y),
        by_a=dual_f - epsilon * (plan.sum(1) / a - b.sum()),
        by_epsilon=float(np.sum(plan * scores) - excess),
        by_rho=_divergence(plan.sum(1), a) + _divergence(plan.sum(0), b),
    )


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """The Kullback-Leibler divergence of measures."""
    return float(np.sum(p * np.log(p / q) - p + q))


def _dual(f: np.ndarray, rho: float) -> np.ndarray:
    return f if math.isinf(rho) else -rho * np.expm1(-f / rho)


def _sinkhorn(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, rho: float
) -> tuple[np.ndarray, np.ndarray]:
    """Steps in the log domain, from a large epsilon downwards."""
    g = np.zeros(len(b))
    f = np.zeros(len(a))
    for step in range(200):
        current = max(epsilon, float(cost.mean()) * 0.9**step)
        damping = 1 / (1 + current / rho)
        log_plan = (g[None, :] - cost) / current + np.log(b)[None, :]
        f = -damping * current * np.asarray(logsumexp(log_plan, axis=1))
        log_plan = (f[:, None] - cost) / current + np.log(a)[:, None]
        g = -damping * current * np.asarray(logsumexp(log_plan, axis=0))
    return f, g


def _newton(
    cost: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    rho: float,
    f: np.ndarray,
    g: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Newton's steps on the whole dual, none longer than epsilon, to rounding."""
    n = len(a)
    for _ in range(200):
        plan = a[:, None] * np.exp((f[:, None] + g[None, :] - cost) / epsilon) * b[None, :]
        target = np.concatenate([a * np.exp(-f / rho), b * np.exp(-g / rho)])
        marginals = np.concatenate([plan.sum(1), plan.sum(0)])
        gradient = target - marginals
        if np.abs(gradient).sum() < 1e-12 * target.sum():
            return f, g
        hessian = np.diag(marginals / epsilon + target / rho)
        hessian[:n, n:] = plan / epsilon
        hessian[n:, :n] = plan.T / epsilon
        if math.isinf(rho):
            # Balanced potentials are free along (1, -1); a step need not go there.
            gauge = np.concatenate([a, -b])
            hessian += np.outer(gauge, gauge) / epsilon
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, epsilon / np.abs(step).max())
        f, g = f + step[:n], g + step[n:]
    raise RuntimeError("the reference did not converge")
