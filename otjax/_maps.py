"""Maps from one space to another, made of what a dual problem says."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from ._arrays import constant, float_array, points_like, positive_number
from ._ground_cost import GroundCost, SqEuclidean
from ._reduction import nearest_columns, Pairs


def gradient_map(
    potential: Callable[[Float[Array, " d"]], Float[Array, ""]], x: ArrayLike
) -> Float[Array, "k d"]:
    r"""The map of the squared distance that a potential stands for, $T(x) = x - \nabla f(x) / 2$
    (Brenier 1991, doi:10.1002/cpa.3160440402; distances are not halved here).

    Of the potential of an entropic solution it is the entropic map, `solution.transport`.

    **Arguments:**

    - `potential`: the first potential, a function of one point: a network, or
        `lambda point: solution.potential(point[None])[0]`.
    - `x`: points, shape (k, d).

    **Returns:** their images, shape (k, d).

    **Raises:** `ValueError` for what is no function, and points of another shape.
    """
    if not callable(potential):
        raise ValueError(f"`potential` must be a callable of one point, got {potential!r}.")
    x = float_array(x, "x", "k d")
    return x - 0.5 * jax.vmap(jax.grad(potential))(x)


def nearest(
    x: ArrayLike, y: ArrayLike, g: ArrayLike, *, cost: GroundCost = SqEuclidean()
) -> tuple[Int[Array, " k"], Float[Array, " k"]]:
    r"""The Laguerre cell of each point, $\arg\min_j c(x, y_j) - g_j$: where a plan without entropy
    sends it if `g` is optimal. And the minimum, the c-transform of `g`.

    A block of points at a time. The c-transform is differentiable, with the cells held fixed.

    **Arguments:**

    - `x`, `y`: points and the sites of the cells, shapes (k, d) and (m, d).
    - `g`: the second potential, shape (m,); that of a site which must not have a cell is -inf.
    - `cost`: a ground cost such as `SqEuclidean()`, or any callable (x_i, y_j) -> scalar.

    **Returns:** the indices of the cells and the c-transform, shapes (k,).

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x, y = float_array(x, "x", "k d"), float_array(y, "y", "m d")
    g = float_array(g, "g", "points").astype(y.dtype)
    if x.shape[1] != y.shape[1] or x.dtype != y.dtype:
        raise ValueError(
            f"`x` and `y` must be points of one space and dtype, got shapes {x.shape} and "
            f"{y.shape}, dtypes {x.dtype} and {y.dtype}."
        )
    if g.shape != y.shape[:1]:
        raise ValueError(f"`g` must have one number for each `y_j`, {y.shape[:1]}, got {g.shape}.")
    return _nearest(x, y, g, cost)


@eqx.filter_jit
def _nearest(x, y, g, cost):
    cells = nearest_columns(*constant((Pairs(x, y, cost), g)))
    return cells, jax.vmap(lambda x, y: cost(x, y))(x, y[cells]) - g[cells]


class ConvexMap(eqx.Module):
    r"""A map that is the gradient of a convex function, as the optimal map of the squared distance
    is (Brenier 1991), from potentials between points.

    $$\varphi(x) = \frac{\epsilon}{2} \log \sum_j b_j
      \exp\left(\frac{2 x \cdot y_j - |y_j|^2 + g_j}{\epsilon}\right)$$

    is convex in x. Its gradient is the entropic map; without entropy it is a maximum of planes, and
    each x goes to one $y_j$.
    """

    y: Float[Array, "m d"]
    heights: Float[Array, " m"]
    epsilon: Float[Array, ""] | None

    def __init__(
        self,
        y: ArrayLike,
        g: ArrayLike,
        b: ArrayLike | None = None,
        *,
        epsilon: ArrayLike | None = None,
    ):
        """**Arguments:**

        - `y`: the points of the second measure, shape (m, d).
        - `g`: the second potential for the squared distance, not halved, shape (m,).
        - `b`: their masses, shape (m,); `None` is uniform. A point of mass zero does not exist.
        - `epsilon`: that of the entropy, positive; `None` is none.

        **Raises:** `ValueError` for wrong shapes and dtypes.
        """
        self.y = float_array(y, "y", "m d")
        g = float_array(g, "g", "points").astype(self.y.dtype)
        m = self.y.shape[0]
        b = jnp.full((m,), 1 / m, g.dtype) if b is None else float_array(b, "b", "points")
        if g.shape != (m,) or b.shape != (m,):
            raise ValueError(f"`g` and `b` must have shape {(m,)}, got {g.shape} and {b.shape}.")
        alive: Bool[Array, " m"] = b > 0
        self.y = jnp.where(alive[:, None], self.y, 0)
        heights = g - jnp.sum(jnp.square(self.y), axis=1)
        self.epsilon = None if epsilon is None else positive_number(epsilon, "epsilon", g.dtype)
        if self.epsilon is not None:
            heights += self.epsilon * jnp.log(jnp.where(alive, b, 1).astype(g.dtype))
        self.heights = jnp.where(alive, heights, -jnp.inf)

    def potential(self, x: ArrayLike) -> Float[Array, " k"]:
        """The convex function at points of shape (k, d)."""
        scores = self._scores(x)
        if self.epsilon is None:
            return 0.5 * jnp.max(scores, axis=1)
        return 0.5 * self.epsilon * jax.nn.logsumexp(scores / self.epsilon, axis=1)

    def __call__(self, x: ArrayLike) -> Float[Array, "k d"]:
        """The images of points of shape (k, d): the gradient of `potential`."""
        scores = self._scores(x)
        if self.epsilon is None:
            return self.y[jnp.argmax(scores, axis=1)]
        weights = jax.nn.softmax(scores / self.epsilon, axis=1)
        return jnp.matmul(weights, self.y, precision=lax.Precision.HIGHEST)

    def _scores(self, x: ArrayLike) -> Float[Array, "k m"]:
        x = points_like(x, "x", self.y.shape[1], self.y.dtype)
        return 2 * jnp.matmul(x, self.y.T, precision=lax.Precision.HIGHEST) + self.heights[None, :]
