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


class QuadraticICNN(eqx.Module):
    r"""An input convex neural network whose layers see squares of the vector too, for maps that
    bend much: it learns these faster than `ICNN`.

    $$q_k(x) = (A_k x)^2 + W_k x + b_k, \qquad z_0 = \sigma(q_0(x)), \qquad
      z_{k+1} = \sigma(\mathrm{softplus}(V_k) z_k + q_{k+1}(x))$$

    with squares of each entry and $\sigma$ the CELU, which is convex and increasing; the value is a
    sum of the last layer with positive weights and of $\frac\mu2\|x\|^2$, $\mu > 0$ trained.
    (Layers like those of Korotin et al. 2021, arXiv:1909.13082.)
    """

    factors: tuple[Float[Array, "out in"], ...]
    passed: tuple[eqx.nn.Linear, ...]
    mixed: tuple[Float[Array, "out in"], ...]
    final: Float[Array, " in"]
    curvature: Float[Array, ""]
    in_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, *, width: int = 64, depth: int = 3, key: Array):
        """**Arguments:**

        - `in_size`: the size of the vectors.
        - `width`, `depth`: the size of the hidden layers, and their number.
        - `key`: draws the weights, so that the gradient is not far from the identity.

        **Raises:** `ValueError` for sizes that are not positive whole numbers.
        """
        self.in_size = whole(in_size, "in_size")
        width, depth = whole(width, "width"), whole(depth, "depth")
        key_factors, key_passed, key_mixed, key_final = jr.split(key, 4)
        scale = 0.3 / math.sqrt(self.in_size)
        self.factors = tuple(
            scale * jr.normal(key, (width, self.in_size)) for key in jr.split(key_factors, depth)
        )
        self.passed = tuple(
            eqx.nn.Linear(self.in_size, width, key=key) for key in jr.split(key_passed, depth)
        )
        # Positive weights of a mean of 1 / width, which keeps the scale from layer to layer.
        start = jnp.log(jnp.expm1(1 / width))
        self.mixed = tuple(
            start + jr.normal(key, (width, width)) for key in jr.split(key_mixed, depth - 1)
        )
        self.final = start + jr.normal(key_final, (width,))
        self.curvature = jnp.log(jnp.expm1(jnp.asarray(0.7)))

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, ""]:
        """The value at one vector."""
        check_sample(x, (self.in_size,))
        quadratic = [
            jnp.square(factor @ x) + passed(x)
            for factor, passed in zip(self.factors, self.passed, strict=True)
        ]
        z = jax.nn.celu(quadratic[0])
        for mixed, added in zip(self.mixed, quadratic[1:], strict=True):
            z = jax.nn.celu(jax.nn.softplus(mixed) @ z + added)
        squared = jnp.sum(jnp.square(x))
        return jax.nn.softplus(self.final) @ z + 0.5 * jax.nn.softplus(self.curvature) * squared

    def transport(self, x: Float[Array, " in"]) -> Float[Array, " in"]:
        """The gradient at one vector: where the map that this function describes sends it."""
        return jax.grad(self)(x)
