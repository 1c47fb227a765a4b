"""A Schrödinger bridge whose potential is a mixture of Gaussians: no simulation to train it."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_array, float_scalar, positive_number
from ._batches import all_finite, cleaned, nan_unless, two_batches


class LightBridge(eqx.Module):
    r"""A Schrödinger bridge with a mixture of Gaussians for its potential (Korotin et al. 2023,
    arXiv:2310.01174, LightSB): what a Brownian motion of diffusion $\sigma$ is weighted with at its
    end is, up to constants, $e^{|y|^2 / 2 \sigma^2}$ times

    $$v(y) = \sum_k \alpha_k\, N(y;\, r_k,\, \sigma^2 \mathrm{diag}(s_k)).$$

    Then everything is a mixture too: the law of the end given the start, which `sample` draws from
    in one step, and the drift at any time. `light_bridge_loss` trains it, with no simulation and
    no plan. It does not train the diffusion: no gradient reaches it; keep it from an optimiser's
    weight decay by its mask.

    - `log_weights`: $\log \alpha_k$, shape (k,).
    - `means`: $r_k$, shape (k, d), in the unit of the samples.
    - `log_scales`: $\log s_k$, shape (k, d).
    - `sigma`: the diffusion.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    log_scales: Float[Array, "k d"]
    sigma: Float[Array, ""]

    def __init__(self, means: ArrayLike, *, sigma: ArrayLike, scale: ArrayLike = 0.1):
        """**Arguments:**

        - `means`: where the components start, shape (k, d), such as k samples of the end.
        - `sigma`: the diffusion, in the unit of the samples per square root of time, positive.
        - `scale`: the $s_k$ to start from, positive.

        **Raises:** `ValueError` for wrong shapes and numbers that are not positive.
        """
        self.means = float_array(means, "means", "k d")
        self.sigma = positive_number(sigma, "sigma", self.means.dtype)
        scale = positive_number(scale, "scale", self.means.dtype)
        self.log_scales = jnp.broadcast_to(jnp.log(scale), self.means.shape)
        self.log_weights = jnp.zeros(len(self.means), self.means.dtype)

    def potential(self, t: ArrayLike, x: ArrayLike) -> Float[Array, ""]:
        r"""The logarithm of the expected weight, $\log \phi_t(x)$, of a Brownian motion that is at
        `x`, shape (d,), at time `t` from 0 to 1; without the constant $(2 \pi)^{-d/2}$."""
        x = self._point(x)
        return _log_potential(self, float_scalar(t, "t", x.dtype), x)

    def drift(self, t: ArrayLike, x: ArrayLike) -> Float[Array, " d"]:
        r"""The drift $\sigma^2 \nabla \log \phi_t(x)$, for `diffuse`."""
        x = self._point(x)
        return _drift(self, float_scalar(t, "t", x.dtype), x)

    def sample(self, key: Array, x0: ArrayLike) -> Float[Array, " d"]:
        """A draw of the end, exactly, given the start `x0`, shape (d,)."""
        return _sample(self, key, self._point(x0))

    def _point(self, x: ArrayLike) -> Float[Array, " d"]:
        x = float_array(x, "x", "d")
        if x.shape != self.means.shape[1:]:
            raise ValueError(
                f"`x` must be one point, of shape {self.means.shape[1:]}, got {x.shape}; for a "
                "batch of points use `jax.vmap`."
            )
        return x

    def _components(self, t: Array, x: Float[Array, " d"]) -> Float[Array, " k"]:
        r"""The logarithms of what the components contribute to $\phi_t(x)$: Gaussian integrals in
        closed form, without a singularity at either end, as $1 - t + t s > 0$."""
        weights, means, scales, variance = (
            leaf.astype(x.dtype)
            for leaf in (
                self.log_weights,
                self.means,
                jnp.exp(self.log_scales),
                jnp.square(self.sigma),
            )
        )
        spread = 1 - t + t * scales
        powers = jnp.square(x)[None, :] * (scales - 1) + 2 * x[None, :] * means
        exponents = (powers - t * jnp.square(means)) / (variance * spread)
        return weights + 0.5 * jnp.sum(exponents - jnp.log(variance * spread), axis=1)


@eqx.filter_jit
def _log_potential(
    bridge: LightBridge, t: Float[Array, ""], x: Float[Array, " d"]
) -> Float[Array, ""]:
    return jax.nn.logsumexp(bridge._components(t, x))


@eqx.filter_jit
def _drift(bridge: LightBridge, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
    slope = jax.grad(lambda x: jax.nn.logsumexp(bridge._components(t, x)))(x)
    return jnp.square(bridge.sigma).astype(x.dtype) * slope


@eqx.filter_jit
def _sample(bridge: LightBridge, key: Array, x0: Float[Array, " d"]) -> Float[Array, " d"]:
    key_component, key_noise = jr.split(key)
    k = jr.categorical(key_component, bridge._components(jnp.zeros((), x0.dtype), x0))
    scales = jnp.exp(bridge.log_scales[k]).astype(x0.dtype)
    noise = (
        bridge.sigma.astype(x0.dtype) * jnp.sqrt(scales) * jr.normal(key_noise, x0.shape, x0.dtype)
    )
    return bridge.means[k].astype(x0.dtype) + scales * x0 + noise


@eqx.filter_jit
def light_bridge_loss(bridge: LightBridge, x0: ArrayLike, x1: ArrayLike) -> Float[Array, ""]:
    r"""The loss of a light bridge,

    $$\mathbb{E} \log \phi_0(x_0) - \mathbb{E} \log \phi_1(x_1).$$

    Its minimum over all potentials is minus the KL of the Schrödinger bridge from the Brownian
    motion that starts like it, in nats; a mixture of enough components comes as near as one likes
    (Korotin et al. 2023, arXiv:2310.01174, proposition 3.2, where constants are left out). Pairs
    play no part, so batches of both ends are drawn apart.

    Invalid input (NaN or infinite samples) gives NaN, with gradient zero.

    **Arguments:**

    - `bridge`: a `LightBridge`.
    - `x0`, `x1`: samples of the start and of the end, shapes (n, d) and (m, d).

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    if not isinstance(bridge, LightBridge):
        raise ValueError(f"`bridge` must be a `LightBridge`, got {bridge!r}.")
    x0, x1 = two_batches(x0, x1, ("x0", "x1"))
    if x0.shape[1:] != bridge.means.shape[1:]:
        raise ValueError(
            f"`x0` must hold points of shape {bridge.means.shape[1:]}, got {x0.shape[1:]}."
        )
    valid = all_finite(x0, x1)
    bridge = eqx.tree_at(lambda bridge: bridge.sigma, bridge, lax.stop_gradient(bridge.sigma))

    def mean(t: float, x: Float[Array, "n d"]) -> Float[Array, ""]:
        at = jnp.asarray(t, x.dtype)
        return jnp.mean(jax.vmap(lambda x: _log_potential(bridge, at, x))(cleaned(x, valid)))

    return nan_unless(valid, mean(0.0, x0) - mean(1.0, x1))
