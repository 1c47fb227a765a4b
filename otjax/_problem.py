"""The entropic transport problem."""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import constant, float_array, float_scalar
from ._geometry import AbstractGeometry
from ._marginals import AbstractMarginal, Balanced
from ._results import RESULTS


class EntropicProblem(eqx.Module):
    r"""Entropic optimal transport, balanced or not:

    $$\min_{P \ge 0} \langle P, C \rangle + \epsilon \mathrm{KL}(P | a \otimes b)
      + D_a(P 1) + D_b(P^T 1),$$

    where $D$ is the constraint $P1 = a$ (`Balanced()`) or the penalty
    $\rho \mathrm{KL}(P1 | a)$ (`Unbalanced(rho)`), and KL is that of measures,
    $\mathrm{KL}(p|q) = \sum p \log(p/q) - p + q$.

    A point of mass zero does not exist: it changes no output and no derivative.
    """

    geometry: AbstractGeometry
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    epsilon: Float[Array, ""]
    marginals: tuple[AbstractMarginal, AbstractMarginal]

    def __init__(
        self,
        geometry: AbstractGeometry,
        a: ArrayLike | None = None,
        b: ArrayLike | None = None,
        *,
        epsilon: ArrayLike | None = None,
        marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    ):
        """**Arguments:**

        - `geometry`: a `PointCloud` or `CostMatrix` of shape (n, m).
        - `a`, `b`: the masses, shapes (n,) and (m,); `None` is uniform of total 1.
        - `epsilon`: the regularisation, in the unit of the cost, a number that may be traced.
            `None` is 5 % of the mean cost, not differentiated.
        - `marginals`: `Balanced()`, `Unbalanced(rho)`, or a pair of them for `a` and for `b`
            (semi-relaxed transport is `(Balanced(), Unbalanced(rho))`).

        **Raises:** `ValueError` for wrong types and shapes. Wrong values are reported by the
        solve, as a member of `RESULTS`.
        """
        if not isinstance(geometry, AbstractGeometry):
            raise ValueError(
                "`geometry` must be a `PointCloud` or a `CostMatrix`, got "
                f"{type(geometry).__name__}; pass `otjax.PointCloud(x, y)`."
            )
        self.geometry = geometry
        self.a = _masses(a, "a", geometry.shape[0], geometry.dtype)
        self.b = _masses(b, "b", geometry.shape[1], geometry.dtype)
        self.epsilon = (
            _default_epsilon(geometry, self.a, self.b)
            if epsilon is None
            else float_scalar(epsilon, "epsilon", geometry.dtype)
        )
        pair = marginals if isinstance(marginals, tuple) else (marginals, marginals)
        if len(pair) != 2 or not all(isinstance(side, AbstractMarginal) for side in pair):
            raise ValueError(
                "`marginals` must be `Balanced()`, `Unbalanced(rho)` or a pair of them, got "
                f"{marginals!r}."
            )
        self.marginals = pair

    @property
    def T(self) -> "EntropicProblem":
        """The same problem with the two measures exchanged."""
        (side_a, side_b), transposed = self.marginals, self.geometry.T
        return EntropicProblem(
            transposed, self.b, self.a, epsilon=self.epsilon, marginals=(side_b, side_a)
        )

    @property
    def has_gauge(self) -> bool:
        """Whether $(f + c, g - c)$ solves the dual as well as $(f, g)$."""
        return all(isinstance(side, Balanced) for side in self.marginals)

    def at(self, epsilon: Float[Array, ""]) -> "EntropicProblem":
        """The same problem at another `epsilon`."""
        return eqx.tree_at(lambda problem: problem.epsilon, self, epsilon)

    def valid(self) -> tuple["EntropicProblem", RESULTS]:
        """The problem with valid masses, epsilon and penalties, and what was wrong with them."""
        a, a_valid = valid_masses(self.a)
        b, b_valid = valid_masses(self.b)
        largest = jnp.sqrt(jnp.finfo(self.epsilon.dtype).max)
        epsilon_valid = (self.epsilon > 0) & (self.epsilon < largest)
        epsilon = jnp.where(epsilon_valid, self.epsilon, 1)
        (side_a, a_rho_valid), (side_b, b_rho_valid) = (side.prepare() for side in self.marginals)
        same_total = jnp.array(True)
        if self.has_gauge:
            # Totals that agree up to rounding are made to agree, or no plan could be exact.
            ratio = lax.stop_gradient(jnp.sum(a) / jnp.sum(b))
            same_total = jnp.abs(ratio - 1) <= (1e-4 if a.dtype == jnp.float32 else 1e-6)
            b = b * ratio
        result = RESULTS.successful
        for valid, otherwise in (
            (same_total, RESULTS.unequal_mass),
            (a_rho_valid & b_rho_valid, RESULTS.invalid_rho),
            (epsilon_valid, RESULTS.invalid_epsilon),
            (a_valid & b_valid, RESULTS.invalid_mass),
        ):
            result = RESULTS.where(valid, result, otherwise)
        sides = (side_a, side_b)
        return EntropicProblem(self.geometry, a, b, epsilon=epsilon, marginals=sides), result

    def prepare(self) -> tuple["EntropicProblem", RESULTS]:
        """The problem that a solver works on, made of valid numbers only, and what was wrong."""
        problem, result = self.valid()
        geometry, finite = self.geometry.prepare(problem.a, problem.b)
        prepared = EntropicProblem(
            geometry, problem.a, problem.b, epsilon=problem.epsilon, marginals=problem.marginals
        )
        return prepared, RESULTS.where(finite, result, RESULTS.nonfinite_input)


def _masses(masses: ArrayLike | None, name: str, size: int, dtype: jnp.dtype) -> Float[Array, " n"]:
    if masses is None:
        return jnp.full((size,), 1 / size, dtype)
    array = float_array(masses, name, "points").astype(dtype)
    if array.shape != (size,):
        raise ValueError(
            f"`{name}` must have one mass for each point, shape ({size},), got {array.shape}."
        )
    return array


def valid_masses(masses: Float[Array, " n"]) -> tuple[Float[Array, " n"], Array]:
    """Masses that a solver can work with, and whether the given ones were."""
    valid = jnp.all(jnp.isfinite(masses) & (masses >= 0)) & (jnp.sum(masses) > 0)
    # A mass of zero has no derivative: the point does not exist.
    alive = jnp.where(masses > 0, masses, 0)
    return jnp.where(valid, alive, 1 / masses.shape[0]), valid


@eqx.filter_jit
def _default_epsilon(
    geometry: AbstractGeometry, a: Float[Array, " n"], b: Float[Array, " m"]
) -> Float[Array, ""]:
    a, _ = valid_masses(a)
    b, _ = valid_masses(b)
    prepared, _ = constant(geometry).prepare(a, b)
    mean = prepared.mean_cost(a, b)
    # Where all costs are 0 any epsilon gives the same plan.
    return lax.stop_gradient(jnp.where(mean == 0, 1, 0.05 * mean))
