"""The Sinkhorn divergence, a transport loss without entropic bias."""

from typing import Literal, NamedTuple, overload

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._geometry import PointCloud
from ._ground_cost import GroundCost, SqEuclidean
from ._marginals import AbstractMarginal, Balanced
from ._problem import EntropicProblem, valid_masses
from ._solution import Solution
from ._solve import solve
from ._solver import AbstractSolver, default_solver


class DivergenceSolutions(NamedTuple):
    """The solutions behind a Sinkhorn divergence: between the measures, and of each with itself."""

    xy: Solution
    xx: Solution
    yy: Solution


@overload
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | None = None,
    cost: GroundCost = SqEuclidean(),
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | None = None,
    cost: GroundCost = SqEuclidean(),
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], DivergenceSolutions]: ...


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | None = None,
    cost: GroundCost = SqEuclidean(),
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], DivergenceSolutions]:
    r"""The debiased transport cost between two weighted point clouds, as a loss:

    $$S_\epsilon(\alpha, \beta) = OT_\epsilon(\alpha, \beta) - \tfrac12 OT_\epsilon(\alpha, \alpha)
      - \tfrac12 OT_\epsilon(\beta, \beta) + \tfrac\epsilon2 (m(\alpha) - m(\beta))^2$$

    (Feydy et al. 2019, arXiv:1810.08278; unbalanced, with the term in the total masses $m$,
    Séjourné et al. 2019, arXiv:1910.12958). Not negative, and zero only at equality, for costs
    such as `SqEuclidean` and `Euclidean`. Never raises for values and is never NaN: `has_aux=True`
    tells what did not converge.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d).
    - `a`, `b`: their masses, shapes (n,) and (m,); `None` is uniform of total 1.
    - `epsilon`: the regularisation, in the unit of the cost. `None` is 5 % of the mean cost
        between `x` and `y`, not differentiated.
    - `cost`: a symmetric ground cost.
    - `marginals`: `Balanced()`, `Unbalanced(rho)`, or a pair of them.
    - `solver`: as for `solve`; its `symmetric()` solves the two self-terms.
    - `has_aux`: whether to return the solutions as well.

    **Returns:** the divergence, in the unit of the cost; with `has_aux` the pair of it and the
    three solutions `(xy, xx, yy)`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    cloud = PointCloud(x, y, cost=cost)
    solver = default_solver(cloud.dtype) if solver is None else solver
    if not isinstance(solver, AbstractSolver):
        raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
    cross = EntropicProblem(cloud, a, b, epsilon=epsilon, marginals=marginals)
    side_a, side_b = cross.marginals

    def self_problem(points, masses, side):
        geometry = PointCloud(points, points, cost=cost)
        return EntropicProblem(
            geometry, masses, masses, epsilon=cross.epsilon, marginals=(side, side)
        )

    solutions = DivergenceSolutions(
        solve(cross, solver, throw=False),
        solve(self_problem(cloud.x, cross.a, side_a), solver.symmetric(), throw=False),
        solve(self_problem(cloud.y, cross.b, side_b), solver.symmetric(), throw=False),
    )
    xy, xx, yy = (solution.value for solution in solutions)
    mass_a, mass_b = (jnp.sum(valid_masses(masses)[0]) for masses in (cross.a, cross.b))
    value = xy - 0.5 * (xx + yy) + 0.5 * cross.epsilon * jnp.square(mass_a - mass_b)
    # Rounding may take it below zero; its derivative is right there too.
    value = value - lax.stop_gradient(jnp.minimum(value, 0))
    return (value, solutions) if has_aux else value
