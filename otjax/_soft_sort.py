r"""Sorting, ranking and selection with derivatives, as entropic transport on the line
(Cuturi, Teboul and Vert 2019, arXiv:1905.11885).

The numbers $x_i$ are sent to targets that stand in order. Unregularised transport on the line keeps
the order, so that its plan is the permutation that sorts; the entropic plan is a smooth one. A
target receives sorted values, on average, and a number is sent to its rank. All numbers are first
brought to mean 0 and variance 1: `epsilon` has no unit, and $s x + t$ is sorted as $x$ is.
"""

import math

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._arrays import count, float_array, float_scalar, known_number, positive_number
from ._geometry import PointCloud
from ._operators import TransportPlan
from ._problem import EntropicProblem
from ._solve import solve
from ._solver import DualNewton


class _Numbers(eqx.Module):
    """Numbers with mean 0 and variance 1, which of them exist, and how to go back."""

    standard: Float[Array, " n"]
    exists: Bool[Array, " n"]
    size: Float[Array, ""]  # how many exist
    mean: Float[Array, ""]
    spread: Float[Array, ""]
    epsilon: Float[Array, ""]
    valid: Bool[Array, ""]


def soft_sort(
    x: ArrayLike, *, where: ArrayLike | None = None, epsilon: ArrayLike = 0.1
) -> Float[Array, " n"]:
    r"""The numbers in ascending order, smoothly: with `epsilon` to 0, `jnp.sort`.

    Differentiable in both modes and at every order, in `x` and `epsilon`. $s x + t$ with $s > 0$
    is sorted to $s$ times the result plus $t$, and the sum of the numbers is kept.

    **Arguments:**

    - `x`: the numbers, shape (n,). For batches, `jax.vmap`.
    - `where`: booleans, shape (n,); numbers at which they are false do not exist. Segments of one
        array are a `jax.vmap` over such masks.
    - `epsilon`: the regularisation, in units of the variance of `x`, a number that may be traced.
        A value is blurred over about $\sqrt{\epsilon / 2}$ standard deviations.

    **Returns:** the sorted values, shape (n,), and after them zeros in place of numbers that do not
    exist. NaN, with gradient 0, if a number that exists is not finite.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{cuturi2019differentiable,
            author = {Cuturi, Marco and Teboul, Olivier and Vert, Jean-Philippe},
            title = {Differentiable ranking and sorting using optimal transport},
            booktitle = {Advances in Neural Information Processing Systems},
            year = {2019},
        }
        ```
    """
    return _sort(*_arguments(x, where, epsilon))


def soft_rank(
    x: ArrayLike, *, where: ArrayLike | None = None, epsilon: ArrayLike = 0.1
) -> Float[Array, " n"]:
    """The rank of each number, from 1 for the least to n, smoothly: with `epsilon` to 0,
    `jax.scipy.stats.rankdata`. Equal numbers share their mean rank.

    **Arguments:**

    - `x`, `where`, `epsilon`: as in `soft_sort`.

    **Returns:** the ranks, shape (n,), 0 for numbers that do not exist. NaN, with gradient 0, if a
    number that exists is not finite.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    return _rank(*_arguments(x, where, epsilon))


def soft_top_k(
    x: ArrayLike,
    k: int | Int[Array, ""],
    *,
    where: ArrayLike | None = None,
    epsilon: ArrayLike = 0.1,
) -> Float[Array, " n"]:
    r"""How far each number is among the `k` largest, smoothly: with `epsilon` to 0, the mask of
    them (Xie et al. 2020, arXiv:2002.06504).

    $O(n)$ in each step, as there are two targets. A number at a distance of some $\epsilon / 2$
    standard deviations from the threshold is neither quite in nor quite out.

    **Arguments:**

    - `x`, `where`, `epsilon`: as in `soft_sort`.
    - `k`: how many, from 1 to the number of those that exist; may be traced.

    **Returns:** a mask, shape (n,), of values in [0, 1] that sum to `k`; 0 for numbers that do not
    exist. NaN, with gradient 0, for a traced `k` out of range or a number that is not finite.

    **Raises:** `ValueError` for a `k` that is known to be out of range, wrong shapes, dtypes and
    types.
    """
    x, exists, epsilon = _arguments(x, where, epsilon)
    whole, known = count(k, "k"), known_number(k)
    if known is not None and not 1 <= known <= x.shape[0]:
        raise ValueError(f"`k` must be from 1 to the {x.shape[0]} numbers in `x`, got {k}.")
    return _top_k(x, exists, epsilon, whole)


def soft_quantile(
    x: ArrayLike,
    q: ArrayLike,
    *,
    where: ArrayLike | None = None,
    epsilon: ArrayLike = 0.1,
) -> Float[Array, ""]:
    """A quantile of the numbers, smoothly: with `epsilon` to 0, `jnp.quantile` with its linear
    interpolation.

    $O(n)$ in each step, as there are three targets: what lies below, a share of one number, and
    what lies above. Differentiable in `q` as well, between 0 and 1.

    **Arguments:**

    - `x`, `where`, `epsilon`: as in `soft_sort`.
    - `q`: from 0 (the least) to 1 (the largest), one number that may be traced. For several, use
        `jax.vmap`.

    **Returns:** the quantile, in the unit of `x`. NaN, with gradient 0, for a traced `q` out of
    range, a number that is not finite, or if none exists.

    **Raises:** `ValueError` for a `q` that is known to be out of range, wrong shapes, dtypes and
    types.
    """
    x, exists, epsilon = _arguments(x, where, epsilon)
    share = float_scalar(q, "q", x.dtype)
    known = known_number(q)
    if known is not None and not 0 <= known <= 1:
        raise ValueError(f"`q` must be from 0 to 1, got {q}.")
    return _quantile(x, exists, epsilon, share)


@eqx.filter_jit
def _sort(x, exists, epsilon):
    numbers = _standardise(x, exists, epsilon)
    plan, _ = _ordering(numbers)
    return _given(numbers, plan.b > 0, _received(numbers, plan))


@eqx.filter_jit
def _rank(x, exists, epsilon):
    numbers = _standardise(x, exists, epsilon)
    plan, ranks = _ordering(numbers)
    return _given(numbers, exists, _sent(numbers, plan, ranks))


@eqx.filter_jit
def _top_k(x, exists, epsilon, k):
    numbers = _standardise(x, exists, epsilon)
    inside = (k >= 1) & (k <= numbers.size.astype(k.dtype))
    numbers = _only_if(numbers, inside)
    k = jnp.where(inside, k, 1).astype(x.dtype)
    targets, weights = jnp.array([-0.5, 0.5], x.dtype), jnp.array([0, 1], x.dtype)
    plan = _plan(numbers, targets, jnp.stack([numbers.size - k, k]))
    return _given(numbers, exists, _sent(numbers, plan, weights))


@eqx.filter_jit
def _quantile(x, exists, epsilon, q):
    numbers = _standardise(x, exists, epsilon)
    numbers = _only_if(numbers, (q >= 0) & (q <= 1) & (numbers.size > 0))
    q = jnp.where(numbers.valid, q, 0.5)
    # At the ends a target has the mass 0, does not exist, and cannot be seen to come or go.
    q = jnp.where((q > 0) & (q < 1), q, lax.stop_gradient(q))
    below = q * (numbers.size - 1)
    targets = jnp.array([-1, 0, 1], x.dtype)
    masses = jnp.stack([below, jnp.ones_like(below), numbers.size - 1 - below])
    plan = _plan(numbers, targets, masses)
    return _given(numbers, jnp.array(True), _received(numbers, plan)[1])


def _arguments(x, where, epsilon):
    """The arguments that all have in common, as arrays."""
    x = float_array(x, "x", "n")
    exists = jnp.ones(x.shape, bool) if where is None else jnp.asarray(where)
    if exists.dtype != jnp.bool_ or exists.shape != x.shape:
        raise ValueError(
            f"`where` must be booleans of the shape of `x`, {x.shape}, got {exists.dtype} of shape "
            f"{exists.shape}."
        )
    return x, exists, positive_number(epsilon, "epsilon", x.dtype)


def _standardise(x, exists, epsilon) -> _Numbers:
    valid = jnp.all(jnp.isfinite(x) | ~exists) & (epsilon > 0) & (epsilon < jnp.inf)
    x = jnp.where(exists & valid, x, 0)
    size = jnp.sum(exists, dtype=x.dtype)
    mean_of = lambda values: jnp.sum(jnp.where(exists, values, 0)) / jnp.maximum(size, 1)
    mean = mean_of(x)
    apart = jnp.where(exists, x - mean, 0)
    # Numbers that differ by rounding alone are equal.
    largest, farthest = lax.stop_gradient((jnp.max(jnp.abs(x)), jnp.max(jnp.abs(apart))))
    equal = farthest <= 8 * jnp.finfo(x.dtype).eps * largest
    unit = jnp.where(equal, 1, farthest)  # so that squares do not overflow
    variance = mean_of(jnp.square(apart / unit))
    spread = unit * jnp.sqrt(jnp.where(equal, 1, variance))
    standard = jnp.where(equal, 0, apart / spread)
    return _Numbers(standard, exists, size, mean, spread, jnp.where(valid, epsilon, 1), valid)


def _only_if(numbers: _Numbers, also: Bool[Array, ""]) -> _Numbers:
    return eqx.tree_at(lambda numbers: numbers.valid, numbers, numbers.valid & also)


def _ordering(numbers: _Numbers) -> tuple[TransportPlan, Float[Array, " n"]]:
    """The plan to as many targets as numbers exist, evenly spaced with a variance of about 1, and
    the ranks of the targets."""
    ranks = jnp.arange(1, numbers.standard.shape[0] + 1, dtype=numbers.standard.dtype)
    place = (ranks - 1) / jnp.maximum(numbers.size - 1, 1)
    targets = math.sqrt(3) * (2 * place - 1)
    return _plan(numbers, targets, (ranks <= numbers.size).astype(ranks.dtype)), ranks


def _plan(
    numbers: _Numbers, targets: Float[Array, " m"], masses: Float[Array, " m"]
) -> TransportPlan:
    """The plan from the numbers, of mass 1 each, to targets of masses that sum to as many."""
    geometry = PointCloud(numbers.standard[:, None], targets[:, None])
    a = numbers.exists.astype(targets.dtype)
    problem = EntropicProblem(geometry, a, masses, epsilon=numbers.epsilon)
    # As far as rounding goes, so that differences between close points are right. Newton's method
    # is at home here: there may be two or three targets, one of little mass.
    size = jnp.square(1 + jnp.max(jnp.abs(numbers.standard)))
    rounding = 0.5 * jnp.finfo(targets.dtype).eps * size / numbers.epsilon
    tolerance = lax.stop_gradient(jnp.clip(rounding, 1e-12, 1e-3))
    return solve(problem, DualNewton(tolerance=tolerance), max_steps=200, throw=False).plan


def _sent(numbers: _Numbers, plan: TransportPlan, values: Float[Array, " m"]) -> Float[Array, " n"]:
    """The mean of the values of the targets to which each number is sent."""
    return plan.mv(values) / jnp.where(numbers.exists, plan.mv(jnp.ones_like(values)), 1)


def _received(numbers: _Numbers, plan: TransportPlan) -> Float[Array, " m"]:
    """The mean of the numbers that each target receives."""
    received = plan.T.mv(jnp.ones_like(numbers.standard))
    mean = plan.T.mv(numbers.standard) / jnp.where(plan.b > 0, received, 1)
    return numbers.mean + numbers.spread * mean


def _given(
    numbers: _Numbers, exists: Bool[Array, "..."], result: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The result for what exists, 0 for what does not, and NaN for input without meaning."""
    return jnp.where(numbers.valid, jnp.where(exists, result, 0), jnp.nan)
