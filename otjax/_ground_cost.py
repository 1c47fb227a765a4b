"""Ground costs: what moving a unit of mass from one point to another costs."""

import abc
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Inexact

from . import _pallas
from ._arrays import known_number, positive_number


# Up to this many coordinates squared distances are summed from differences, which is exact for
# near points and as fast as a matrix product; above, the product of centred points is used.
_DIFFERENCES_UP_TO = 4


class AbstractGroundCost(eqx.Module):
    """A symmetric ground cost that also knows how to fill a whole block of the matrix.

    Finite points must have a cost that is not NaN, and derivatives that are not NaN.
    Any other callable of two points that returns a scalar is a ground cost as well.
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """The cost of moving a unit of mass from `x` to `y`."""

    @abc.abstractmethod
    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """The costs between all rows of `x` and all rows of `y`."""


class AbstractFactoredCost(AbstractGroundCost):
    """A ground cost whose matrix is a product of two thin ones: $C = U W^T$.

    Derivatives of sums over all pairs are then such sums again, of a few more columns.
    """

    @abc.abstractmethod
    def factors(
        self, x: Float[Array, "n d"], y: Float[Array, "m d"]
    ) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
        """The factors $U$ and $W$ of the matrix between all rows of `x` and all rows of `y`."""


GroundCost: TypeAlias = AbstractGroundCost | Callable[[Array, Array], Array]


def checked_cost(cost: GroundCost, x: Float[Array, " d"], y: Float[Array, " d"]) -> GroundCost:
    """The ground cost, which must be one of points such as `x` and `y`.

    **Raises:** `ValueError`, naming `cost`.
    """
    if not callable(cost):
        raise ValueError(f"`cost` must be a callable (x_i, y_j) -> scalar, got {cost!r}.")
    if isinstance(cost, type):
        raise ValueError(f"`cost` must be an instance: pass `{cost.__name__}()`.")
    if degree(cost) is None:  # not one of this library, which take points of any length
        _check_costs(cost, x, y, "a scalar", ())
        if isinstance(cost, AbstractGroundCost):
            _check_costs(
                cost.pairwise, x[None], y[None], "a matrix of one entry by `pairwise`", (1, 1)
            )
    return cost


def _check_costs(
    function: Callable[[Array, Array], Array], x: Array, y: Array, what: str, shape: tuple[int, ...]
) -> None:
    given = f"`x_i` of shape {x.shape[-1:]} and one `y_j` of shape {y.shape[-1:]}"
    try:
        costs = jax.eval_shape(function, x, y)
    except Exception as error:  # whatever the code of a user raises
        told = str(error).partition("\n")[0]
        raise ValueError(
            f"`cost` cannot be computed for one {given}. It raised {type(error).__name__}: {told}"
        ) from error
    if getattr(costs, "shape", None) != shape or costs.dtype != x.dtype:
        raise ValueError(
            f"`cost` must return {what} of the dtype of the points, {x.dtype}, for one {given}, "
            f"got {costs}."
        )


class Flipped(eqx.Module):
    """The cost with its two points exchanged."""

    cost: Callable[[Array, Array], Array]

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Array:
        return self.cost(y, x)


def flip(cost: GroundCost) -> GroundCost:
    """The cost seen from the other side: `flip(cost)(y, x) == cost(x, y)`."""
    if isinstance(cost, AbstractGroundCost):
        return cost
    if isinstance(cost, Flipped):
        return cost.cost
    return Flipped(cost)


def pairwise(
    cost: GroundCost, x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    """The matrix of a ground cost, through its own formula if it has one."""
    if isinstance(cost, AbstractGroundCost):
        return cost.pairwise(x, y)
    return jax.vmap(lambda x_i: jax.vmap(lambda y_j: cost(x_i, y_j))(y))(x)


@jax.custom_jvp
def _squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Squared distances between all rows of `x` and all rows of `y`."""
    if x.shape[1] <= _DIFFERENCES_UP_TO:
        squares = [jnp.square(x[:, k, None] - y[None, :, k]) for k in range(x.shape[1])]
        return sum(squares[1:], start=squares[0])
    if x.dtype == jnp.float32 and _pallas.run_here():
        kernel, default = _pallas.squared_distances, _by_product
        return lax.platform_dependent(x, y, cuda=kernel, default=default)
    return _by_product(x, y)


def _by_product(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """The same by one product of matrices."""
    # |x|^2 - 2 x.y + |y|^2 cancels for points far from the origin: centre first.
    u, w = _squared_factors(*_centred(x, y))
    # Apart from what follows: of a product fused with its neighbours XLA tries out many kernels on
    # a GPU, which takes seconds, and finds none that is faster than a library's.
    product = lax.optimization_barrier(jnp.matmul(u, w.T, precision=lax.Precision.HIGHEST))
    return jnp.maximum(product, 0)


def _squared_factors(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
    """The squares as two more coordinates make squared distances one product, with no pass over the
    matrix for the sum."""
    squares_x, squares_y = (jnp.sum(jnp.square(p), axis=1, keepdims=True) for p in (x, y))
    u = _join(x, squares_x, jnp.ones_like(squares_x))
    return u, _join(-2 * y, jnp.ones_like(squares_y), squares_y)


@_squared_distances.defjvp
def _squared_distances_jvp(primals, tangents):
    """2 (x - y).(dx - dy) as two matrix products, also when gradients are pulled back: a sum over
    the matrix is one more column of a product, not one more pass."""
    x, y = _centred(*primals)
    dx, dy = (2 * tangent for tangent in tangents)
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    along_x, along_y = (jnp.sum(p * dp, axis=1, keepdims=True) for p, dp in ((x, dx), (y, dy)))
    of_x = product(_join(along_x, -dx), _join(jnp.ones_like(along_y), y).T)
    of_y = product(_join(jnp.ones_like(along_x), -x), _join(along_y, dy).T)
    return _squared_distances(*primals), lax.optimization_barrier(of_x + of_y)


def _join(*columns: Float[Array, "n _"]) -> Float[Array, "n _"]:
    return jnp.concatenate(columns, axis=1)


def _centred(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    centre = lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    # Once: computed anew for each use, and rounded differently, they would not be the same points.
    return lax.optimization_barrier((x - centre, y - centre))


def _rounding_noise(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "..."]:
    """The size below which a squared distance is nothing but rounding."""
    if x.shape[1] <= _DIFFERENCES_UP_TO:
        return jnp.zeros((1, 1), x.dtype)
    x, y = lax.stop_gradient(_centred(x, y))
    sizes = jnp.sum(jnp.square(x), axis=1)[:, None] + jnp.sum(jnp.square(y), axis=1)[None, :]
    return 4 * jnp.finfo(x.dtype).eps * sizes


def _safe_root(squared: Inexact[Array, "*s"], noise: Inexact[Array, "*t"]) -> Inexact[Array, "*s"]:
    """The square root, which is 0 with derivatives 0 up to `noise`."""
    positive = squared > noise
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


class SqEuclidean(AbstractFactoredCost):
    r"""The squared Euclidean distance $\|x - y\|^2$, not halved."""

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(jnp.square(x - y))

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return _squared_distances(x, y)

    def factors(
        self, x: Float[Array, "n d"], y: Float[Array, "m d"]
    ) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
        return _squared_factors(*_centred(x, y))


class Euclidean(AbstractGroundCost):
    r"""The Euclidean distance $\|x - y\|$; its gradient at coincident points is 0."""

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        return _safe_root(jnp.sum(jnp.square(x - y)), jnp.zeros((), x.dtype))

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return _safe_root(_squared_distances(x, y), _rounding_noise(x, y))


def _safe_power(base: Inexact[Array, "*s"], exponent: Inexact[Array, ""]) -> Inexact[Array, "*s"]:
    """A power of a non-negative base, which is 0 with derivatives 0 at 0."""
    positive = base > 0
    return jnp.where(positive, jnp.power(jnp.where(positive, base, 1), exponent), 0)


class PNorm(AbstractGroundCost):
    r"""A power of a p-norm, $\|x - y\|_p^{power}$; derivatives at coincident coordinates are 0."""

    p: Float[Array, ""]
    power: Float[Array, ""]

    def __init__(self, p: ArrayLike, power: ArrayLike = 1.0):
        """**Arguments:**

        - `p`: the order of the norm, at least 1. A number that can be traced and differentiated.
        - `power`: the power to which the norm is raised, positive; likewise.
        """
        self.p = positive_number(p, "p")
        self.power = positive_number(power, "power")
        known = known_number(p)
        if known is not None and not known >= 1:
            raise ValueError(f"`p` must be at least 1, got {p!r}.")

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        p, power = self.p.astype(x.dtype), self.power.astype(x.dtype)
        return _safe_power(jnp.sum(_safe_power(jnp.abs(x - y), p)), power / p)

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return jax.vmap(lambda x_i: jax.vmap(lambda y_j: self(x_i, y_j))(y))(x)


def _normalised(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    positive = squared > 0
    return jnp.where(positive, x / jnp.sqrt(jnp.where(positive, squared, 1)), 0)


class Cosine(AbstractFactoredCost):
    r"""One minus the cosine of the angle, $1 - x \cdot y / (\|x\| \|y\|)$.

    A vector of zeros is at cost 1 from everything, with gradient 0.
    """

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        return 1 - jnp.sum(_normalised(x) * _normalised(y))

    def pairwise(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        u, w = self.factors(x, y)
        return jnp.matmul(u, w.T, precision=lax.Precision.HIGHEST)

    def factors(
        self, x: Float[Array, "n d"], y: Float[Array, "m d"]
    ) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
        one = lambda points: jnp.ones_like(points[:, :1])
        return _join(one(x), -_normalised(x)), _join(one(y), _normalised(y))


def degree(cost: GroundCost) -> int | Float[Array, ""] | None:
    """The power of a factor of all coordinates by which the cost grows; `None` where nobody knows.

    Costs that have one are those of this library, and forbid no pair.
    """
    if isinstance(cost, PNorm):
        return cost.power
    known: dict[type, int] = {SqEuclidean: 2, Euclidean: 1, Cosine: 0}
    return known.get(type(cost))
