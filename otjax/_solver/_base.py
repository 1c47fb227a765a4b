"""What a solver is: prepared problem in, potentials and their marginals out."""

import abc
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._problem import PreparedProblem
from .._results import RESULTS


Potentials: TypeAlias = tuple[Float[Array, " n"], Float[Array, " m"]]


class Outcome(eqx.Module):
    """What a solver found.

    - `f`, `g`: the potentials, shapes (n,) and (m,).
    - `epsilon`: what they solve for: the problem's, or the least that the dtype resolves.
    - `marginals`: those of the plan of `f` and `g` at `epsilon`, made afresh.
    - `num_steps`, `result`: as in a solution.
    """

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]]
    num_steps: Int[Array, ""]
    result: RESULTS


class AbstractSolver(eqx.Module):
    """A method for the dual of an entropic problem."""

    @abc.abstractmethod
    def run(
        self,
        problem: PreparedProblem,
        init: Potentials | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        """Solves a problem of valid numbers, from `init` or from scratch.

        It is compiled, batched and not differentiated. It makes at most `max_steps` steps; `None`
        is its own limit.
        """


def tolerance_or_default(
    tolerance: Float[Array, ""] | None, floor: Float[Array, ""]
) -> Float[Array, ""]:
    """The tolerance in the dtype of `floor`, the error that rounding causes.

    `None` is 1e-4 in float32, 1e-9 in float64, or a few times the floor if that is more; but
    never so much that the plan would mean little.
    """
    if tolerance is None:
        least = 1e-4 if floor.dtype == jnp.float32 else 1e-9
        return jnp.clip(4 * floor, least, 1e-2)
    return tolerance.astype(floor.dtype)


# The least epsilon that is solved for, in units of the rounding of the potentials: there each entry
# of the plan is known to some per cent.
_RESOLUTION = 64


def size_of(f: Float[Array, " n"], g: Float[Array, " m"]) -> Float[Array, ""]:
    """The size of potentials, of which their rounding is a part; not finite if one is not."""
    return jnp.max(jnp.abs(f)) + jnp.max(jnp.abs(g))


def weighed_size(
    problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> Float[Array, ""]:
    """The same where rounding moves mass: a point of less than the mean mass counts by that
    share."""
    share = lambda masses: jnp.minimum(masses / jnp.mean(masses), 1)
    return size_of(f * share(problem.a), g * share(problem.b))


def rounding_floor(epsilon: Float[Array, ""], size: Float[Array, ""]) -> Float[Array, ""]:
    """The marginal error that rounding of potentials of this weighed size alone causes."""
    return jnp.finfo(size.dtype).eps * size / epsilon


def least_resolved_epsilon(size: Float[Array, ""]) -> Float[Array, ""]:
    """The least epsilon at which potentials of this size make a plan that means something."""
    return _RESOLUTION * jnp.finfo(size.dtype).eps * size


def settled_at(
    masses: Float[Array, " n"],
    sums: Float[Array, " n"],
    share: Float[Array, " n"],
    tolerance: Float[Array, ""],
) -> Bool[Array, ""]:
    """Whether sums are about what they should be at points whose masses are too small to count."""
    negligible = (masses > 0) & (masses < 1e-3 * tolerance / masses.shape[0] * jnp.sum(masses))
    return ~jnp.any(negligible & ~(jnp.abs(sums - share) <= 0.1 * share))


def in_range(row: Float[Array, " n"], column: Float[Array, " m"]) -> Bool[Array, ""]:
    """Whether sums of a plan are such that their logarithms can be trusted."""
    least = jnp.sqrt(jnp.finfo(row.dtype).tiny)
    off = lambda sums: jnp.any(~((sums > least) & (sums < jnp.inf)))
    return ~(off(row) | off(column))
