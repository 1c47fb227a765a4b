"""The entropic transport problem, as it is given and as a solver sees it."""

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from ._arrays import float_array, float_scalar, known_number, positive_number
from ._geometry import AbstractGeometry, Partners
from ._marginals import AbstractMarginal, Balanced, in_units, Unbalanced
from ._results import RESULTS
from ._varying import alike


class Relative(eqx.Module):
    """An `epsilon` relative to the costs: a fraction of the mean cost above the least allowed one.

    So it grows with the unit of the cost, and does not change when a constant is added to all
    costs. It is not differentiated. Where all costs are equal every plan costs the same, and any
    positive number will do: it is 1.
    """

    fraction: Float[Array, ""]

    def __init__(self, fraction: ArrayLike = 0.05):
        """**Arguments:**

        - `fraction`: of the mean cost above the least, positive. May be traced.
        """
        self.fraction = positive_number(fraction, "fraction")

    def times(self, spread: Float[Array, ""]) -> Float[Array, ""]:
        """The number that it is where the mean cost is `spread` above the least."""
        epsilon = self.fraction.astype(spread.dtype) * spread
        return lax.stop_gradient(jnp.where(spread > 0, epsilon, 1))


class PreparedProblem(eqx.Module):
    """A problem of valid numbers, as solvers, derivatives and certificates see it.

    - `geometry`, `a`, `b`, `marginals`: as in `EntropicProblem`, prepared.
    - `epsilon`: a number.
    - `mean`, `least`: the mean and the least cost of allowed pairs, without derivatives.
    - `unit`: what all costs, `epsilon`, and penalties were divided by, so that products neither
        over- nor underflow. Potentials and values of this problem are in that unit.
    - `lost`: the masses of the points of each side that have no allowed partner, and that `a` and
        `b` are without.
    """

    geometry: AbstractGeometry
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    epsilon: Float[Array, ""]
    marginals: tuple[AbstractMarginal, AbstractMarginal]
    mean: Float[Array, ""]
    least: Float[Array, ""]
    unit: Float[Array, ""]
    lost: tuple[Float[Array, ""], Float[Array, ""]]

    @property
    def T(self) -> "PreparedProblem":
        """The same problem with the two measures exchanged."""
        return PreparedProblem(
            self.geometry.T,
            self.b,
            self.a,
            self.epsilon,
            (self.marginals[1], self.marginals[0]),
            self.mean,
            self.least,
            self.unit,
            (self.lost[1], self.lost[0]),
        )

    @property
    def spread(self) -> Float[Array, ""]:
        """The mean cost above the least: the unit in which costs differ."""
        return self.mean - self.least

    @property
    def has_gauge(self) -> bool:
        """Whether $(f + c, g - c)$ solves the dual as well as $(f, g)$."""
        return all(isinstance(side, Balanced) for side in self.marginals)

    def at(self, epsilon: Float[Array, ""]) -> "PreparedProblem":
        """The same problem at another `epsilon`."""
        return eqx.tree_at(lambda problem: problem.epsilon, self, epsilon)


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
    epsilon: Float[Array, ""] | Relative
    marginals: tuple[AbstractMarginal, AbstractMarginal]

    def __init__(
        self,
        geometry: AbstractGeometry,
        a: ArrayLike | None = None,
        b: ArrayLike | None = None,
        *,
        epsilon: ArrayLike | Relative | None = None,
        marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    ):
        """**Arguments:**

        - `geometry`: a `PointCloud` or `CostMatrix` of shape (n, m).
        - `a`, `b`: the masses, shapes (n,) and (m,); `None` is uniform of total 1.
        - `epsilon`: the regularisation, in the unit of the cost, a number that may be traced; or
            `Relative(fraction)` of the mean cost. `None` is `Relative(0.05)`. The problem of a
            solution says what number it became.
        - `marginals`: `Balanced()`, `Unbalanced(rho)`, `TotalVariation(rho)` or a pair of them for
            `a` and for `b` (semi-relaxed transport is `(Balanced(), Unbalanced(rho))`); or
            `Partial(share)`.

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
        epsilon = Relative() if epsilon is None else epsilon
        self.epsilon = (
            epsilon
            if isinstance(epsilon, Relative)
            else float_scalar(epsilon, "epsilon", geometry.dtype)
        )
        pair = marginals if isinstance(marginals, tuple) else (marginals, marginals)
        if len(pair) != 2 or not all(isinstance(side, AbstractMarginal) for side in pair):
            raise ValueError(
                "`marginals` must be `Balanced()`, `Unbalanced(rho)`, `TotalVariation(rho)`, "
                f"`Partial(share)` or a pair of them, got {marginals!r}."
            )
        self.marginals = _constraint(pair[0]), _constraint(pair[1])

    @property
    def has_gauge(self) -> bool:
        """Whether $(f + c, g - c)$ solves the dual as well as $(f, g)$."""
        return all(isinstance(side, Balanced) for side in self.marginals)

    @property
    def T(self) -> "EntropicProblem":
        """The same problem with the two measures exchanged."""
        (side_a, side_b), transposed = self.marginals, self.geometry.T
        return EntropicProblem(
            transposed, self.b, self.a, epsilon=self.epsilon, marginals=(side_b, side_a)
        )

    def at(self, epsilon: Float[Array, ""]) -> "EntropicProblem":
        """The same problem at another `epsilon`."""
        return EntropicProblem(
            self.geometry, self.a, self.b, epsilon=epsilon, marginals=self.marginals
        )

    def prepare(self) -> tuple[PreparedProblem, RESULTS]:
        """The problem that a solver works on, made of valid numbers only, and what was wrong."""
        a, a_valid = valid_masses(self.a)
        b, b_valid = valid_masses(self.b)
        sides, rho_valid = zip(*(side.prepare() for side in self.marginals), strict=True)
        same_total = jnp.array(True)
        if self.has_gauge:
            # Totals that agree up to rounding are made to agree, or no plan could be exact.
            ratio = lax.stop_gradient(jnp.sum(a) / jnp.sum(b))
            same_total = jnp.abs(ratio - 1) <= (1e-4 if a.dtype == jnp.float32 else 1e-6)
            b = b * ratio
        geometry, finite, mean, least, unit, partners = self.geometry.prepare(a, b)
        unit = jnp.asarray(unit, a.dtype)
        a, b, lost = _without_the_alone(a, b, partners)
        # A mass that has nowhere to go may vanish, or else there is no plan.
        feasible = jnp.isfinite(least) | ~finite
        least = jnp.where(jnp.isfinite(least), least, mean)
        for side, mass in zip(sides, lost, strict=True):
            feasible &= ~((mass > 0) & (side.softness() == 0))
        if self.has_gauge:
            alone = (lost[0] > 0) | (lost[1] > 0)
            b = b * lax.stop_gradient(jnp.where(alone, jnp.sum(a) / jnp.sum(b), 1))
        epsilon, epsilon_valid = self._epsilon_in(unit, mean - least)
        result = RESULTS.successful
        for valid, otherwise in (
            (feasible, RESULTS.infeasible),
            (same_total, RESULTS.unequal_mass),
            (rho_valid[0] & rho_valid[1], RESULTS.invalid_rho),
            (epsilon_valid, RESULTS.invalid_epsilon),
            (a_valid & b_valid, RESULTS.invalid_mass),
            (finite, RESULTS.nonfinite_input),
        ):
            result = RESULTS.where(valid, result, otherwise)
        side_a, side_b = (in_units(side, unit) for side in sides)
        marginals = side_a, side_b
        prepared = PreparedProblem(geometry, a, b, epsilon, marginals, mean, least, unit, lost)
        return alike(prepared), result

    def _epsilon_in(
        self, unit: Float[Array, ""], spread: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Bool[Array, ""]]:
        """`epsilon` divided by `unit`, in which the mean cost is `spread` above the least, and
        whether it is valid."""
        if isinstance(self.epsilon, Relative):
            epsilon = self.epsilon.times(spread)
        else:
            epsilon = self.epsilon / unit
        largest = jnp.sqrt(jnp.finfo(epsilon.dtype).max)
        given = epsilon if isinstance(self.epsilon, Relative) else self.epsilon
        valid = (given > 0) & (epsilon < largest)
        # One that is too small to be resolved must not be so small that its inverse is infinite.
        return jnp.where(valid, jnp.maximum(epsilon, 16 / largest), 1), valid


def _constraint(side: AbstractMarginal) -> AbstractMarginal:
    """The same, or what a penalty without bound is."""
    hard = isinstance(side, Unbalanced) and known_number(side.rho) == jnp.inf
    return Balanced() if hard else side


def _without_the_alone(
    a: Float[Array, " n"], b: Float[Array, " m"], partners: Partners | None
) -> tuple[Float[Array, " n"], Float[Array, " m"], tuple[Float[Array, ""], Float[Array, ""]]]:
    """The masses of the points that have partners, and the sums of those of the others."""
    if partners is None:
        return a, b, (jnp.zeros((), a.dtype), jnp.zeros((), b.dtype))
    lost = (
        jnp.sum(jnp.where(partners.rows, 0, a)),
        jnp.sum(jnp.where(partners.columns, 0, b)),
    )
    return jnp.where(partners.rows, a, 0), jnp.where(partners.columns, b, 0), lost


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
