"""The Sinkhorn divergence of two point clouds in one line."""

from typing import Literal, overload

from jaxtyping import Array, ArrayLike, Float

from ._divergence import divergence, DivergenceSolutions, nan_unless_valid, Starts
from ._geometry import PointCloud
from ._ground_cost import GroundCost, SqEuclidean
from ._marginals import AbstractMarginal, Balanced
from ._mesh import on_any_mesh
from ._problem import Relative
from ._solver import AbstractSolver


@overload
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | Relative | None = None,
    cost: GroundCost = SqEuclidean(),
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
    init: Starts | None = None,
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | Relative | None = None,
    cost: GroundCost = SqEuclidean(),
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
    init: Starts | None = None,
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], DivergenceSolutions]: ...


@on_any_mesh
def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | Relative | None = None,
    cost: GroundCost = SqEuclidean(),
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
    init: Starts | None = None,
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], DivergenceSolutions]:
    r"""The debiased transport cost between two weighted point clouds, as a loss:

    $$S_\epsilon(\alpha, \beta) = OT_\epsilon(\alpha, \beta) - \tfrac12 OT_\epsilon(\alpha, \alpha)
      - \tfrac12 OT_\epsilon(\beta, \beta) + \tfrac\epsilon2 (m(\alpha) - m(\beta))^2$$

    (Feydy et al. 2019, arXiv:1810.08278; unbalanced, with the term in the total masses $m$,
    Séjourné et al. 2019, arXiv:1910.12958). Not negative, and zero only at equality, for costs
    such as `SqEuclidean` and `Euclidean`. Never raises for values. Where the points or masses are
    invalid it is NaN, with a gradient of zero; where only the accuracy is short it is the best
    value found. With `has_aux=True` it is finite, and the solutions tell what failed.

    **Arguments:**

    - `x`, `y`: the points, shapes (n, d) and (m, d).
    - `a`, `b`: their masses, shapes (n,) and (m,); `None` is uniform of total 1.
    - `epsilon`: the regularisation, in the unit of the cost, or `Relative(fraction)` of the mean
        cost between `x` and `y`. `None` is `Relative(0.05)`.
    - `cost`: a symmetric ground cost.
    - `marginals`: `Balanced()`, `Unbalanced(rho)`, or a pair of them.
    - `solver`: as for `solve`, for each of the three problems. `None` is the default, and
        `SymmetricSinkhorn` for the two of a measure with itself.
    - `tolerance`: that of these default solvers.
    - `init`: potentials to start from, `solutions.potentials` of an earlier call: a training step
        whose points have moved little takes fewer steps so.
    - `has_aux`: whether to return the solutions as well.

    **Returns:** the divergence, in the unit of the cost; with `has_aux` the pair of it and the
    three solutions `(xy, xx, yy)`. `divergence` takes any geometries, a limit of steps, an adjoint,
    and self-terms that stay as they are.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    xy = PointCloud(x, y, cost=cost)
    value, solutions = divergence(
        xy,
        PointCloud(xy.x, xy.x, cost=cost),
        PointCloud(xy.y, xy.y, cost=cost),
        a,
        b,
        epsilon=epsilon,
        marginals=marginals,
        solver=solver,
        tolerance=tolerance,
        init=init,
    )
    if has_aux:
        return value, solutions
    return nan_unless_valid(value, *(solution.result for solution in solutions))
