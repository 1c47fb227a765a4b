"""Pairs of fresh samples with all points of a data set, by a potential that was found before."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import constant, float_array, float_scalar, known_number
from .._control import cond_any
from .._couplings import column_at
from .._geometry import AbstractCloud
from .._ground_cost import GroundCost, SqEuclidean
from .._reduction import map_pairs_with_sums, Pairs as Costs
from .._results import RESULTS
from .._solution import Solution
from .._stochastic import SemidiscreteSolution
from ._batches import all_finite, two_batches, vectors
from ._coupling import AbstractCoupling
from ._pairs import Drawn, entropy_and_cost, evaluated, Pairs


class Semidiscrete(AbstractCoupling):
    r"""Pairs from the plan between a law that can be sampled and a finite set of points, the data
    (Mousavi-Hosseini et al. 2025, arXiv:2509.25519).

    With the potential $g$ of the points, a start draws its partner with the probabilities
    $b_j e^{(g_j - c(x, y_j)) / \epsilon}$, up to a factor; at $\epsilon = 0$ it takes the nearest
    in the sense of the c-transform, $\min_j c(x, y_j) - g_j$. So a plan with all of the data, not
    with a batch of them, at the cost of one row for each start.

    `pairs(key, x0, x1)` takes fresh starts and all points, in the order of their potential. The
    coupling knows the points by their potential alone. Its result is that of the solution that it
    was made of.

    A condition of the points rides along. A model that is given one must not see other starts in
    training than in sampling, though, where any start may meet any condition: with `labels` each
    start draws a label first, as often as there is mass of it, then a partner among the points of
    that label. The potential is then that of each label's points for itself, all in one vector:

    ```python
    for label in range(10):
        found = otjax.semidiscrete(draw_starts, points[labels == label], key=key)
        potential = potential.at[labels == label].set(found.potential_sites)
    coupling = flow.Semidiscrete(potential, labels=labels)
    ```
    """

    potential: Float[Array, " m"]
    masses: Float[Array, " m"]
    epsilon: Float[Array, ""]
    cost: GroundCost
    labels: Int[Array, " m"] | None
    result: RESULTS

    def __init__(
        self,
        potential: ArrayLike | Solution | SemidiscreteSolution,
        *,
        masses: ArrayLike | None = None,
        epsilon: ArrayLike | None = None,
        cost: GroundCost | None = None,
        labels: ArrayLike | None = None,
    ):
        """**Arguments:**

        - `potential`: that of the points, shape (m,), in the unit of the cost; or what
            `otjax.semidiscrete` has found; or a `Solution` of a large sample of starts (first)
            against the points (second).
        - `masses`: of the points, shape (m,); None is those of the solution, or uniform. A point of
            mass zero is nobody's partner.
        - `epsilon`: the regularisation, in the unit of the cost, not negative; None is that of the
            solution, or 0: the nearest.
        - `cost`: the ground cost that the potential belongs to; None is that of the solution, or
            `SqEuclidean()`.
        - `labels`: whole numbers, shape (m,); None is one for all.

        **Raises:** `ValueError` for shapes that do not fit, and a negative epsilon.
        """
        self.result = RESULTS.successful
        if isinstance(potential, Solution):
            self.result = potential.result
            masses = potential.prepared.b if masses is None else masses
            # A number, that was used; `prepared` has it in a unit of its own.
            epsilon = potential.epsilon if epsilon is None else epsilon
            geometry = potential.problem.geometry
            if cost is None and isinstance(geometry, AbstractCloud):
                cost = geometry.cost
            potential = potential.potentials[1]
        elif isinstance(potential, SemidiscreteSolution):
            self.result, sites = potential.result, potential.sites
            masses = sites.b if masses is None else masses
            epsilon = sites.epsilon if epsilon is None else epsilon
            cost = sites.cost if cost is None else cost
            potential = potential.potential_sites
        self.potential = float_array(potential, "potential", "m")
        size, dtype = len(self.potential), self.potential.dtype
        masses = jnp.ones(size, dtype) if masses is None else float_array(masses, "masses", "m")
        if masses.shape != (size,):
            raise ValueError(
                f"`masses` must have one mass for each point, shape ({size},), got {masses.shape}."
            )
        self.masses = masses.astype(dtype)
        epsilon = 0.0 if epsilon is None else epsilon
        known = known_number(epsilon)
        if known is not None and not known >= 0:
            raise ValueError(f"`epsilon` must not be negative, got {epsilon!r}.")
        self.epsilon = float_scalar(epsilon, "epsilon", dtype)
        self.cost = SqEuclidean() if cost is None else cost
        self.labels = None if labels is None else jnp.asarray(labels)
        if self.labels is not None and (
            self.labels.shape != (size,) or not jnp.issubdtype(self.labels.dtype, jnp.integer)
        ):
            raise ValueError(
                f"`labels` must be one whole number for each point, shape ({size},), got shape "
                f"{self.labels.shape} and dtype {self.labels.dtype}."
            )

    @eqx.filter_jit
    def pairs(
        self, key: Array, x0: ArrayLike, x1: ArrayLike, condition: ArrayLike | None = None
    ) -> Pairs:
        del condition
        x0, x1 = constant(tuple(map(vectors, two_batches(x0, x1, ("x0", "x1")))))
        m = len(self.potential)
        if len(x1) != m:
            raise ValueError(
                f"`x1` must be the points that the potential of `Semidiscrete` belongs to, {m} of "
                f"them, got {len(x1)}."
            )
        g, masses, epsilon = (
            leaf.astype(x0.dtype) for leaf in constant((self.potential, self.masses, self.epsilon))
        )
        independent = masses / jnp.sum(masses)
        labels, drawn_labels = None, None
        if self.labels is not None:
            key_labels, key = jr.split(key)
            labels = self.labels
            drawn_labels = _drawn_labels(key_labels, len(x0), labels, masses)
        level = jr.uniform(key, x0.shape[:1], x0.dtype)

        def of_starts(block, level, label):
            costs = block.matrix()
            alive = jnp.broadcast_to(masses[None, :] > 0, costs.shape)
            costs = jnp.where(alive, costs, 0)
            if labels is not None:
                alive &= labels[None, :] == label[:, None]
            law = _law(costs, g, masses, epsilon, alive)
            mean = jnp.sum(costs * independent[None, :], axis=1)
            each = column_at(law, level), *entropy_and_cost(law, costs), mean
            return each, jnp.matmul(jnp.ones_like(level), law, precision=lax.Precision.HIGHEST)

        costs = Costs(x0, x1, self.cost)
        (j, entropies, paid, means), sums = map_pairs_with_sums(
            of_starts, costs, level, drawn_labels, sums=jnp.zeros_like(g)
        )
        drawn = Drawn(jnp.arange(len(x0)), j, sums / len(x0), jnp.mean(entropies), jnp.mean(paid))
        valid = all_finite(x0, x1, g, masses)
        result = RESULTS.where(valid, self.result, RESULTS.nonfinite_input)
        return evaluated(drawn, independent, jnp.mean(means), result)


def _law(
    costs: Float[Array, "k m"],
    g: Float[Array, " m"],
    masses: Float[Array, " m"],
    epsilon: Float[Array, ""],
    alive: Bool[Array, "k m"],
) -> Float[Array, "k m"]:
    """With what probability each start has which partner: at epsilon = 0 the nearest, surely."""
    scores = jnp.where(alive, g[None, :] - costs, -jnp.inf)

    def soft() -> Float[Array, "k m"]:
        log_masses = jnp.log(jnp.where(masses > 0, masses, 1))
        logits = scores / jnp.where(epsilon > 0, epsilon, 1) + log_masses[None, :]
        return jax.nn.softmax(logits, axis=1)

    def nearest() -> Float[Array, "k m"]:
        return jax.nn.one_hot(jnp.argmax(scores, axis=1), len(g), dtype=g.dtype)

    return cond_any(epsilon > 0, soft, nearest)


def _drawn_labels(
    key: Array, num: int, labels: Int[Array, " m"], masses: Float[Array, " m"]
) -> Int[Array, " num"]:
    """The label that each start draws: each as often as there is mass of it, up to one."""
    key_order, key_level = jr.split(key)
    order = jnp.argsort(labels)
    cumulative = jnp.cumsum(masses[order])
    # Levels one apart over the points in the order of labels, in a random order of the starts.
    turns = jr.permutation(key_order, num).astype(masses.dtype)
    levels = turns + jr.uniform(key_level, (), masses.dtype)
    place = jnp.searchsorted(cumulative, levels / num * cumulative[-1], side="right")
    return labels[order][jnp.minimum(place, len(labels) - 1)]
