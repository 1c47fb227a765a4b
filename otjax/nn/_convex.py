"""Convex functions, whose gradients are transport maps."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from ._shapes import check_sample, whole


class ICNN(eqx.Module):
    r"""An input convex neural network: a smooth convex function of a vector.

    $$z_1 = \sigma(W_0 x + b_0), \qquad z_{k+1} = \sigma(\mathrm{softplus}(V_k) z_k + W_k x + b_k)$$

    with $\sigma$ the softplus, convex and increasing, and no activation at the scalar end (Amos, Xu
    and Kolter 2017, arXiv:1609.07152, equation 2). By Brenier's theorem its gradient is the optimal
    map, for the squared Euclidean cost, from any density to that density's image.
    """

    passed: tuple[eqx.nn.Linear, ...]
    mixed: tuple[Float[Array, "out in"], ...]
    strong_convexity: float = eqx.field(static=True)
    in_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        *,
        width: int = 64,
        depth: int = 3,
        strong_convexity: float = 0.0,
        key: Array,
    ):
        r"""**Arguments:**

        - `in_size`: the size of the vectors.
        - `width`, `depth`: the size of the hidden layers, and their number.
        - `strong_convexity`: $\mu \ge 0$; adds $\frac\mu2\|x\|^2$, so that the gradient is a map
            with an inverse. A Python number, not trained.
        - `key`: draws the weights.

        **Raises:** `ValueError` for sizes that are not positive whole numbers, and a negative
        `strong_convexity`.
        """
        self.in_size = whole(in_size, "in_size")
        if not 0 <= strong_convexity < math.inf:
            raise ValueError(
                f"`strong_convexity` must be finite and not negative, got {strong_convexity!r}."
            )
        self.strong_convexity = float(strong_convexity)
        sizes = [*[whole(width, "width")] * whole(depth, "depth"), 1]
        key_passed, key_mixed = jr.split(key)
        self.passed = tuple(
            eqx.nn.Linear(self.in_size, size, key=key)
            for size, key in zip(sizes, jr.split(key_passed, len(sizes)), strict=True)
        )
        # Weights near 1 / width: a mean of the layer before, which keeps the scale.
        start = jnp.log(jnp.expm1(1 / width))
        self.mixed = tuple(
            start + jr.normal(key, (size, width))
            for size, key in zip(sizes[1:], jr.split(key_mixed, len(sizes) - 1), strict=True)
        )

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, ""]:
        """The value at one vector."""
        check_sample(x, (self.in_size,))
        z = self.passed[0](x)
        for passed, mixed in zip(self.passed[1:], self.mixed, strict=True):
            z = jax.nn.softplus(mixed) @ jax.nn.softplus(z) + passed(x)
        return z[0] + 0.5 * self.strong_convexity * jnp.sum(jnp.square(x))

    def transport(self, x: Float[Array, " in"]) -> Float[Array, " in"]:
        """The gradient at one vector: where the map that this function describes sends it."""
        return jax.grad(self)(x)
