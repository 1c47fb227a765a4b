"""A problem seen from potentials whose plan is at hand: Schmitzer (2019, arXiv:1610.06519)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dual import dual_value, total_mass
from .._operators import TransportPlan
from .._problem import EntropicProblem


# Log-scalings drift no further from the absorbed potentials: entries of the plan that underflow
# (below exp(-87) in float32) would still be too small to count after both have drifted so far.
DRIFT = {jnp.dtype("float32"): 34.0, jnp.dtype("float64"): 200.0}


class Point(eqx.Module):
    """What one evaluation at `g` tells: its best `f`, and how far the pair is from a solution.

    - `image`: where a Sinkhorn step takes `g`.
    - `column`: the second marginal of the plan of `f` and `g`; the first is exact.
    - `error`: the relative L1 error of the marginals.
    - `value`: what grows along the iteration however the error wavers: the dual, where known.
    """

    g: Float[Array, " m"]
    f: Float[Array, " n"]
    image: Float[Array, " m"]
    column: Float[Array, " m"]
    error: Float[Array, ""]
    value: Float[Array, ""]


class Absorbed(eqx.Module):
    """The problem seen from `f0`, `g0`: soft minima near them are products with their plan."""

    problem: EntropicProblem
    f0: Float[Array, " n"]
    g0: Float[Array, " m"]
    plan: TransportPlan

    def softmin(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """The soft minimum over the columns at `g`, for each row."""
        epsilon = self.problem.epsilon
        scaling = self.problem.b * jnp.exp((g - self.g0) / epsilon)
        return self.f0 - epsilon * jnp.log(self.plan.density.mv(scaling))

    def softmin_transpose(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """The soft minimum over the rows at `f`, for each column."""
        epsilon = self.problem.epsilon
        scaling = self.problem.a * jnp.exp((f - self.f0) / epsilon)
        return self.g0 - epsilon * jnp.log(self.plan.density.T.mv(scaling))

    def plan_at(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> TransportPlan:
        """The plan of any potentials near, by scaling the one at hand."""
        epsilon = self.problem.epsilon
        return TransportPlan(
            self.plan.density,
            self.problem.a * jnp.exp((f - self.f0) / epsilon),
            self.problem.b * jnp.exp((g - self.g0) / epsilon),
        )

    def coarse_plan_at(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> TransportPlan:
        """The plan of any potentials near in single precision: half as much to move in memory."""
        problem, single = self.problem, jnp.dtype("float32")
        if f.dtype == single:
            return self.plan_at(f, g)
        density = problem.geometry.plan(f, g, problem.epsilon, single)
        return TransportPlan(density, problem.a.astype(single), problem.b.astype(single))

    def drift(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Float[Array, ""]:
        """How far potentials are from those at hand, in units of epsilon."""
        far = jnp.maximum(jnp.max(jnp.abs(f - self.f0)), jnp.max(jnp.abs(g - self.g0)))
        return far / self.problem.epsilon


def alternate(absorbed: Absorbed, g: Float[Array, " m"]) -> Point:
    """One Sinkhorn step: two products with the plan."""
    problem = absorbed.problem
    side_a, side_b = problem.marginals
    f = side_a.damping(problem.epsilon) * absorbed.softmin(g)
    softmin = absorbed.softmin_transpose(f)
    column = problem.b * jnp.exp((g - softmin) / problem.epsilon)
    target = side_b.target(g, problem.b)
    error = jnp.sum(jnp.abs(column - target)) / total_mass(problem, jnp.sum(target))
    value = dual_value(problem, f, g, jnp.sum(column))
    return Point(g, f, side_b.damping(problem.epsilon) * softmin, column, error, value)


def average(absorbed: Absorbed, g: Float[Array, " m"]) -> Point:
    """One step of the symmetric problem, whose two potentials are one: half the products."""
    problem = absorbed.problem
    side, _ = problem.marginals
    softmin = absorbed.softmin(g)
    column = problem.a * jnp.exp((g - softmin) / problem.epsilon)
    target = side.target(g, problem.a)
    error = 2 * jnp.sum(jnp.abs(column - target)) / total_mass(problem, jnp.sum(target))
    image = 0.5 * (g + side.damping(problem.epsilon) * softmin)
    return Point(g, image, image, column, error, -error)


def alternate_in_log_domain(
    problem: EntropicProblem, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The step of `alternate` by log-sum-exps, for potentials however far off."""
    geometry, epsilon = problem.geometry, problem.epsilon
    side_a, side_b = problem.marginals
    f = side_a.damping(epsilon) * geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
    g = side_b.damping(epsilon) * geometry.T.softmin(f + epsilon * jnp.log(problem.a), epsilon)
    return f, g


def average_in_log_domain(
    problem: EntropicProblem, g: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The step of `average` by a log-sum-exp."""
    epsilon = problem.epsilon
    softmin = problem.geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
    g = 0.5 * (g + problem.marginals[0].damping(epsilon) * softmin)
    return g, g
