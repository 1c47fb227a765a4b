"""Entropic transport as a maximisation over functions, which networks and minibatches can do."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import positive_number, single_at_least
from .._ground_cost import GroundCost, pairwise, SqEuclidean
from ._samples import Critic, samples, scores


# At the optimum the density of the plan stays far below exp of this, and above it squares of
# float32 would overflow in an optimiser.
_LARGEST_EXPONENT = 30.0


def _exp(exponent: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """The exponential, continued by its tangent where potentials are far too high: still convex, so
    that the maximum of the dual stays where it is, and finite."""
    excess = jax.nn.relu(exponent - _LARGEST_EXPONENT)
    return jnp.exp(exponent - excess) * (1 + excess)


def _costs(
    cost: GroundCost, x: Float[Array, "n ..."], y: Float[Array, "m ..."], dtype: jnp.dtype
) -> Float[Array, "n m"]:
    return pairwise(cost, *(points.reshape(len(points), -1).astype(dtype) for points in (x, y)))


def _checked(
    x: ArrayLike, y: ArrayLike, epsilon: ArrayLike
) -> tuple[Float[Array, "n ..."], Float[Array, "m ..."], Float[Array, ""]]:
    x, y = samples(x, "x"), samples(y, "y")
    if x[0].size != y[0].size or x.dtype != y.dtype:
        raise ValueError(
            f"`y` must hold points like those of `x`, of shape {x.shape[1:]} and dtype {x.dtype}, "
            f"got shape {y.shape[1:]} and dtype {y.dtype}."
        )
    # Exponentials of half precision overflow.
    return x, y, positive_number(epsilon, "epsilon", single_at_least(x.dtype))


def entropic_dual(
    f: Critic,
    g: Critic,
    x: ArrayLike,
    y: ArrayLike,
    *,
    epsilon: ArrayLike,
    cost: GroundCost = SqEuclidean(),
) -> Float[Array, ""]:
    r"""The dual objective of entropic transport, to be maximised over two functions:

    $$\mathbb{E} f(x) + \mathbb{E} g(y)
      - \epsilon\, \mathbb{E}\left[e^{(f(x) + g(y) - c(x, y)) / \epsilon} - 1\right]$$

    Means over batches estimate it without bias, so stochastic gradients train networks on it
    (Genevay et al. 2016, arXiv:1605.08527; Seguy et al. 2018, arXiv:1711.02283). Over the points of
    two discrete measures its maximum is the `value` of `otjax.solve` with uniform masses, and `f`
    and `g` are then the potentials.

    The exponential is continued by its tangent above $e^{30}$, which no optimum reaches: potentials
    that are far too high give a large but finite gradient.

    **Arguments:**

    - `f`, `g`: each maps one point to a scalar; they are vmapped here.
    - `x`, `y`: points, shapes (n, ...) and (m, ...).
    - `epsilon`: the regularisation, positive, in the unit of the cost.
    - `cost`: a ground cost; it sees points as vectors.

    **Raises:** `ValueError` for empty batches, points of different sizes, a number that is not
    positive, and functions that do not return a scalar.
    """
    x, y, epsilon = _checked(x, y, epsilon)
    f_x, g_y = (scores(*one).astype(epsilon.dtype) for one in ((f, x, "f"), (g, y, "g")))
    exponent = (f_x[:, None] + g_y[None, :] - _costs(cost, x, y, epsilon.dtype)) / epsilon
    return jnp.mean(f_x) + jnp.mean(g_y) - epsilon * jnp.mean(_exp(exponent) - 1)


def entropic_semi_dual(
    g: Critic,
    x: ArrayLike,
    y: ArrayLike,
    *,
    epsilon: ArrayLike,
    cost: GroundCost = SqEuclidean(),
) -> Float[Array, ""]:
    r"""The semi-dual objective of entropic transport, to be maximised over one function:

    $$\mathbb{E}_x \left[-\epsilon \log \mathbb{E}_y\, e^{(g(y) - c(x, y)) / \epsilon}\right]
      + \mathbb{E} g(y)$$

    (Genevay et al. 2016, arXiv:1605.08527.) Its maximum is that of `entropic_dual`, and it is
    finite for any `g`. Batches of `x` estimate it without bias, batches of `y` do not: pass all of
    a discrete `y`, or a large batch.

    **Arguments** and **raises:** as `entropic_dual`.
    """
    x, y, epsilon = _checked(x, y, epsilon)
    g_y = scores(g, y, "g").astype(epsilon.dtype)
    exponent = (g_y[None, :] - _costs(cost, x, y, epsilon.dtype)) / epsilon
    log_size = jnp.log(len(y)).astype(epsilon.dtype)
    softmin = -epsilon * (jsp.special.logsumexp(exponent, axis=1) - log_size)
    return jnp.mean(softmin) + jnp.mean(g_y)
