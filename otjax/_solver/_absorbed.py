"""A problem seen from potentials whose plan is at hand: Schmitzer (2019, arXiv:1610.06519)."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._arrays import inner
from .._dual import dual_value, product_mass, total_mass, translation
from .._operators import TransportPlan
from .._problem import PreparedProblem


# Log-scalings drift no further from the absorbed potentials: entries of the plan that underflow
# (below exp(-87) in float32) would still be too small to count after both have drifted so far.
DRIFT = {jnp.dtype("float32"): 34.0, jnp.dtype("float64"): 200.0}


class Point(eqx.Module):
    """What one evaluation at `g` tells: its best `f`, and how far the pair is from a solution.

    - `image`: where a Sinkhorn step takes `g`.
    - `column`: the second marginal of the plan of `f` and `g`; the first is exact.
    - `error`: the relative L1 error of the marginals.
    - `value`: the dual, where it is known.
    """

    g: Float[Array, " m"]
    f: Float[Array, " n"]
    image: Float[Array, " m"]
    column: Float[Array, " m"]
    error: Float[Array, ""]
    value: Float[Array, ""]


class Absorbed(eqx.Module):
    """The problem seen from `f0`, `g0`: soft minima near them are products with their plan."""

    problem: PreparedProblem
    f0: Float[Array, " n"]
    g0: Float[Array, " m"]
    plan: TransportPlan

    def softmin(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """The soft minimum over the columns at `g`, for each row."""
        epsilon = self.problem.epsilon
        scaling = self.problem.b * jnp.exp((g - self.g0) / epsilon)
        return self.f0 - epsilon * _log(self.plan.density.mv(scaling))

    def softmin_transpose(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """The soft minimum over the rows at `f`, for each column."""
        epsilon = self.problem.epsilon
        scaling = self.problem.a * jnp.exp((f - self.f0) / epsilon)
        return self.g0 - epsilon * _log(self.plan.density.T.mv(scaling))

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
        density = problem.geometry.plan(f, g, problem.epsilon, single)
        return TransportPlan(density, problem.a.astype(single), problem.b.astype(single))


def _log(product: Float[Array, " n"]) -> Float[Array, " n"]:
    """The logarithm, or 0 where the product under- or overflows, so that a potential stays where it
    is: this is where the points that matter to one have next to no mass, and no error that counts
    masses tells."""
    tiny = jnp.finfo(product.dtype).tiny
    lost = (product < tiny) | (product == jnp.inf)
    return jnp.log(jnp.where(lost, 1, product))


class AbstractStep(eqx.Module):
    """One step of a fixed-point iteration on the second potential."""

    @abc.abstractmethod
    def start(
        self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """The potentials to start from, made of any.

        **Raises:** `ValueError` if the step cannot be one for this problem.
        """

    @abc.abstractmethod
    def first(self, absorbed: Absorbed, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """The first potential that goes with a second one near the absorbed ones."""

    @abc.abstractmethod
    def near(self, absorbed: Absorbed, g: Float[Array, " m"]) -> Point:
        """The step from a point near the absorbed potentials, by products with their plan."""

    @abc.abstractmethod
    def far(
        self, problem: PreparedProblem, g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """The step by log-sum-exps, from potentials so far off that their plan over- or
        underflows."""

    @abc.abstractmethod
    def fits(
        self,
        problem: PreparedProblem,
        row: Float[Array, " n"],
        column: Float[Array, " m"],
        floor: Float[Array, ""],
    ) -> Bool[Array, ""]:
        """Whether the step is one for this problem, by the plan's sums over rows and columns."""


class Alternating(AbstractStep):
    """Sinkhorn's step: each potential from the other, by two products."""

    def start(
        self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        del problem
        return f, g

    def first(self, absorbed: Absorbed, g: Float[Array, " m"]) -> Float[Array, " n"]:
        problem = absorbed.problem
        return problem.marginals[0].damping(problem.epsilon) * absorbed.softmin(g)

    def near(self, absorbed: Absorbed, g: Float[Array, " m"]) -> Point:
        problem, side_b = absorbed.problem, absorbed.problem.marginals[1]
        f = self.first(absorbed, g)
        softmin = absorbed.softmin_transpose(f)
        column = jnp.exp((g - softmin) / problem.epsilon)
        share = side_b.share(g)
        lack = inner(problem.b, jnp.abs(column - share))
        error = lack / total_mass(problem, inner(problem.b, share))
        value = dual_value(problem, f, g, inner(problem.b, column) - product_mass(problem))
        column = problem.b * column
        if not problem.has_gauge:
            softmin -= translation(problem, f, g)
        return Point(g, f, side_b.damping(problem.epsilon) * softmin, column, error, value)

    def far(
        self, problem: PreparedProblem, g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        geometry, epsilon = problem.geometry, problem.epsilon
        side_a, side_b = problem.marginals
        f = side_a.damping(epsilon) * geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
        if not problem.has_gauge:
            f += translation(problem, f, g)
        g = side_b.damping(epsilon) * geometry.T.softmin(f + epsilon * jnp.log(problem.a), epsilon)
        return f, g

    def fits(
        self,
        problem: PreparedProblem,
        row: Float[Array, " n"],
        column: Float[Array, " m"],
        floor: Float[Array, ""],
    ) -> Bool[Array, ""]:
        del problem, row, column, floor
        return jnp.array(True)


class Averaging(AbstractStep):
    """The step of a measure against itself, whose two potentials are one: half the products
    (Feydy et al. 2019, arXiv:1810.08278)."""

    def start(
        self, problem: PreparedProblem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        if f.shape != g.shape:
            raise ValueError(
                "`SymmetricSinkhorn` is for a measure against itself, got a problem of shape "
                f"{problem.geometry.shape}; pass `Sinkhorn()`."
            )
        return 0.5 * (f + g), 0.5 * (f + g)

    def first(self, absorbed: Absorbed, g: Float[Array, " m"]) -> Float[Array, " n"]:
        del absorbed
        return g

    def near(self, absorbed: Absorbed, g: Float[Array, " m"]) -> Point:
        problem = absorbed.problem
        side, _ = problem.marginals
        softmin = absorbed.softmin(g)
        column = jnp.exp((g - softmin) / problem.epsilon)
        share = side.share(g)
        lack = inner(problem.a, jnp.abs(column - share))
        error = 2 * lack / total_mass(problem, inner(problem.a, share))
        image = 0.5 * (g + side.damping(problem.epsilon) * softmin)
        return Point(g, image, image, problem.a * column, error, -error)

    def far(
        self, problem: PreparedProblem, g: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        epsilon = problem.epsilon
        softmin = problem.geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
        g = 0.5 * (g + problem.marginals[0].damping(epsilon) * softmin)
        return g, g

    def fits(
        self,
        problem: PreparedProblem,
        row: Float[Array, " n"],
        column: Float[Array, " m"],
        floor: Float[Array, ""],
    ) -> Bool[Array, ""]:
        # Of a symmetric cost the sums agree up to rounding; small differences are the error's.
        unlike = jnp.abs(row - column) > (0.1 + 4 * floor) * (row + column)
        return ~jnp.any((problem.a != problem.b) | unlike)
