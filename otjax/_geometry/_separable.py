"""A geometry of two grids whose cost is a sum over their axes."""

import math

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._reduction import is_allowed
from .._unit import excess_exponent, over, power_of_two
from ._axes import least_cost, mean_and_partners
from ._base import AbstractPlan, AbstractSpatialGeometry, Coarse, Prepared
from ._contraction import contracted, Costs, partial_sums, PartialSums


class Presence(eqx.Module):
    """Which points of a grid have mass; the others stand where the heaviest one is.

    In products they do not take part, and their own sums are those of the heaviest.
    """

    alive: Bool[Array, " n"]
    heaviest: Int[Array, ""]

    def without_absent(self, logs: Float[Array, " n"]) -> Float[Array, " n"]:
        """Logarithms, of points of mass zero that of zero."""
        return jnp.where(self.alive, logs, -jnp.inf)

    def for_all(self, values: Float[Array, " n"]) -> Float[Array, " n"]:
        """Values at all points, of those at the points that have mass."""
        return jnp.where(self.alive, values, values[self.heaviest])

    def places(self) -> Int[Array, " n"]:
        """Where each point is."""
        return jnp.where(self.alive, jnp.arange(self.alive.shape[0]), self.heaviest)


def presence(masses: Float[Array, " n"]) -> Presence:
    """The presence of points of these masses."""
    masses = lax.stop_gradient(masses)
    return Presence(masses > 0, jnp.argmax(masses))


class Separable(AbstractSpatialGeometry):
    """The cost is the sum of one matrix for each axis, $C_{ij} = \\sum_k C^k_{i_k j_k}$, at points
    in row-major order."""

    costs: Costs
    rows: Presence
    columns: Presence

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.alive.shape[0], self.columns.alive.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        return self.costs[0].dtype

    @property
    def T(self) -> "Separable":
        return Separable(tuple(cost.T for cost in self.costs), self.columns, self.rows)

    def prepare(self, a: Float[Array, " n"], b: Float[Array, " m"]) -> Prepared:
        known = [jnp.all(jnp.isfinite(cost)) for cost in self.costs]
        costs = tuple(jnp.where(jnp.isfinite(cost), cost, 0) for cost in self.costs)
        sizes = [jnp.max(jnp.where(is_allowed(cost), jnp.abs(cost), 0)) for cost in costs]
        exponent = excess_exponent(jnp.max(jnp.stack(sizes)))
        factor = power_of_two(-exponent, self.dtype)
        costs = tuple(jnp.where(is_allowed(cost), factor * cost, cost) for cost in costs)
        mean, partners = mean_and_partners(*lax.stop_gradient((costs, a, b)))
        a, b = jnp.where(partners.rows, a, 0), jnp.where(partners.columns, b, 0)
        return Prepared(
            Separable(costs, presence(a), presence(b)),
            jnp.all(jnp.stack(known)),
            mean,
            least_cost(*lax.stop_gradient((costs, a, b))),
            power_of_two(exponent, self.dtype),
            partners,
        )

    def softmin(self, h: Float[Array, " m"], epsilon: Float[Array, ""]) -> Float[Array, " n"]:
        return _softmin(self, h, epsilon)

    def plan(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        epsilon: Float[Array, ""],
        dtype: jnp.dtype | None = None,
    ) -> "SeparablePlan":
        dtype = jnp.dtype(dtype or f.dtype)
        sums = _sums(self, g, epsilon, dtype), _sums(self.T, f, epsilon, dtype)
        return SeparablePlan(self, f, g, epsilon, *sums, dtype)

    def coarsened(self, a: Float[Array, " n"], b: Float[Array, " m"], cells: int) -> Coarse:
        numbers = tuple(_number_of_cells(self._sizes(side), cells) for side in range(2))
        narrow = lambda costs, side: tuple(
            _merged(cost, number, side) for cost, number in zip(costs, numbers[side], strict=True)
        )
        of_columns, of_rows = narrow(self.costs, 1), narrow(self.costs, 0)
        a_cells, b_cells = (
            _summed(masses, self._sizes(side), numbers[side]) for side, masses in enumerate((a, b))
        )
        within = lambda costs, a, b: Separable(costs, presence(a), presence(b))
        return Coarse(
            within(narrow(of_columns, 0), a_cells, b_cells),
            a_cells,
            b_cells,
            within(of_columns, a, b_cells),
            within(of_rows, a_cells, b),
        )

    def _sizes(self, side: int) -> tuple[int, ...]:
        return tuple(cost.shape[side] for cost in self.costs)

    def matrix(self) -> Float[Array, "n m"]:
        """The costs of all pairs, each from where the two points are."""
        total = _added(self.costs)
        return total[self.rows.places()][:, self.columns.places()]


class SeparablePlan(AbstractPlan):
    """The plan of a separable geometry: a product with it is one contraction for each axis."""

    geometry: Separable
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    epsilon: Float[Array, ""]
    forward: PartialSums
    backward: PartialSums
    dtype: jnp.dtype = eqx.field(static=True)

    def mv(self, vectors: Float[Array, " m *k"]) -> Float[Array, " n *k"]:
        geometry, rows = self.geometry, self.geometry.rows
        costs, logs = _in_units(geometry, self.g, self.epsilon)
        ends = rows.for_all(self.forward.logs[-1].reshape(-1))
        ends = jnp.exp((over(self.f, self.epsilon) + ends).astype(self.dtype))

        def of_one(vector: Float[Array, " m"]) -> Float[Array, " n"]:
            return ends * rows.for_all(contracted(costs, logs, self.forward, vector))

        vectors = vectors.astype(self.dtype)
        return of_one(vectors) if vectors.ndim == 1 else jax.vmap(of_one, 1, 1)(vectors)

    def squared_mv(self, vector: Float[Array, " m"]) -> Float[Array, " n"]:
        return self.geometry.plan(self.f, self.g, 0.5 * self.epsilon, self.dtype).mv(vector)

    def as_matrix(self) -> Float[Array, "n m"]:
        scores = over(self.f[:, None] + self.g[None, :] - self.geometry.matrix(), self.epsilon)
        entries = jnp.exp(scores.astype(self.dtype))
        return jnp.where(self.geometry.columns.alive[None, :], entries, 0)

    @property
    def T(self) -> "SeparablePlan":
        return SeparablePlan(
            self.geometry.T, self.g, self.f, self.epsilon, self.backward, self.forward, self.dtype
        )


def _number_of_cells(sizes: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """How many cells to make along each axis, so that there are about `cells` in all."""
    points = math.prod(sizes)
    ratio = (min(cells, points) / points) ** (1 / len(sizes))
    return tuple(max(1, int(ratio * size + 1e-9)) for size in sizes)


def _cells(size: int, number: int) -> Int[Array, " size"]:
    return jnp.arange(size) * number // size


def _merged(cost: Float[Array, "n m"], number: int, side: int) -> Float[Array, "..."]:
    """The mean costs of allowed pairs in cells of neighbours on one side."""
    cost = cost if side == 0 else cost.T
    allowed = is_allowed(cost)
    cells = _cells(cost.shape[0], number)
    counts = jax.ops.segment_sum(allowed.astype(cost.dtype), cells, number)
    sums = jax.ops.segment_sum(jnp.where(allowed, cost, 0), cells, number)
    mean = jnp.where(counts > 0, sums / jnp.maximum(counts, 1), jnp.max(cost))
    return mean if side == 0 else mean.T


def _summed(masses: Float[Array, " n"], sizes, numbers) -> Float[Array, " k"]:
    """The masses of the cells of a grid."""
    for size, number in zip(sizes, numbers, strict=True):
        # The first axis goes, and comes again as the last.
        sums = jax.ops.segment_sum(masses.reshape(size, -1), _cells(size, number), number)
        masses = sums.T
    return masses.reshape(-1)


@eqx.filter_custom_jvp
def _softmin(geometry, h, epsilon):
    logs = _sums(geometry, h, epsilon, geometry.dtype).logs[-1].reshape(-1)
    return -epsilon * geometry.rows.for_all(logs)


@_softmin.def_jvp
def _softmin_jvp(primals, tangents):
    # That of -epsilon P 1, with P at itself; through the rule, so that second derivatives move it.
    geometry, h, epsilon = primals
    f = _softmin(geometry, h, epsilon)
    _, tangent = eqx.filter_jvp(
        lambda geometry, h, epsilon: geometry.plan(f, h, epsilon).mv(jnp.ones_like(h)),
        primals,
        tangents,
    )
    return f, -epsilon * tangent


def _sums(geometry: Separable, h, epsilon, dtype) -> PartialSums:
    costs, logs = _in_units(geometry, h, epsilon)
    return partial_sums(costs, logs, geometry.rows.alive, dtype)


def _in_units(geometry: Separable, h: Float[Array, " m"], epsilon: Float[Array, ""]):
    """Costs and potentials in units of epsilon."""
    there = h > -jnp.inf
    # No derivative of what is not there, where epsilon would multiply infinity.
    logs = jnp.where(there, over(jnp.where(there, h, 0), epsilon), -jnp.inf)
    costs = tuple(over(cost, epsilon) for cost in geometry.costs)
    return costs, geometry.columns.without_absent(logs)


def _added(costs: Costs) -> Float[Array, "n m"]:
    """The sum over the axes, at all pairs of points."""
    total = costs[0]
    for cost in costs[1:]:
        total = total[:, None, :, None] + cost[None, :, None, :]
        total = total.reshape(total.shape[0] * total.shape[1], -1)
    return total
