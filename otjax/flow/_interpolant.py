"""Paths between the two ends of a pair, and their velocities."""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_scalar, known_number, positive_number


Scalar = Float[Array, ""]
Sample = Float[Array, "..."]


class AbstractInterpolant(eqx.Module):
    """A path from `x0` to `x1`, random if it depends on `noise`, a standard normal sample.

    All methods are for one pair; `margin` keeps times away from 0 and 1, where a velocity may
    have no finite variance: `velocity_loss` draws times in [margin, 1 - margin].
    """

    margin: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def position(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        """Where the path is at time `t`."""

    @abc.abstractmethod
    def velocity(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        """The derivative of `position` in time, which a velocity field is to match."""


class Linear(AbstractInterpolant):
    r"""The straight path with constant noise, $x_t = (1 - t) x_0 + t x_1 + \sigma z$.

    With `sigma = 0` and independent pairs it is that of rectified flow (Liu et al. 2022,
    arXiv:2209.03003) and of stochastic interpolants; with noise, that of conditional flow matching
    (Tong et al. 2023, arXiv:2302.00482).
    """

    sigma: Scalar
    margin: Scalar

    def __init__(self, sigma: ArrayLike = 0.0):
        """**Arguments:**

        - `sigma`: the standard deviation of the noise, in the unit of the samples, not negative.
        """
        self.sigma = not_negative(sigma, "sigma")
        self.margin = jnp.zeros_like(self.sigma)

    def position(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        return (1 - t) * x0 + t * x1 + self.sigma.astype(x0.dtype) * noise

    def velocity(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        del t, noise
        return x1 - x0


class BrownianBridge(AbstractInterpolant):
    r"""The Brownian bridge $x_t = (1 - t) x_0 + t x_1 + \sigma \sqrt{t (1 - t)} z$.

    With pairs drawn from the entropic plan at $\epsilon = 2 \sigma^2$, for the cost
    $\|x - y\|^2$, the velocity field is the probability flow of the Schrödinger bridge
    (Tong et al. 2023, arXiv:2307.03672). Its velocity grows without bound at both ends, so times
    are clipped to [margin, 1 - margin].
    """

    sigma: Scalar
    margin: Scalar

    def __init__(self, sigma: ArrayLike, *, margin: ArrayLike = 1e-3):
        """**Arguments:**

        - `sigma`: the diffusion, in the unit of the samples per square root of time, positive.
        - `margin`: how near to 0 and 1 a time may come, between 0 and 1/2.
        """
        self.sigma = positive_number(sigma, "sigma")
        self.margin = positive_number(margin, "margin")
        known = known_number(margin)
        if known is not None and not known < 0.5:
            raise ValueError(f"`margin` must be below 1/2, got {margin!r}.")

    def position(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        t = self._clipped(t)
        return (1 - t) * x0 + t * x1 + self.spread(t) * noise

    def velocity(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        t = self._clipped(t)
        spread = self.sigma.astype(t.dtype) * (1 - 2 * t) / (2 * jnp.sqrt(t * (1 - t)))
        return x1 - x0 + spread * noise

    def drift(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        r"""The drift of the process that is pinned at `x1`, $(x_1 - x_t) / (1 - t)$, which the
        drift of a stochastic process is to match. That of the process backward in time is the same
        of exchanged ends."""
        t = self._clipped(t)
        return x1 - x0 - self.sigma.astype(t.dtype) * jnp.sqrt(t / (1 - t)) * noise

    def spread(self, t: Scalar) -> Scalar:
        r"""The standard deviation $\sigma \sqrt{t (1 - t)}$ at a time, which is clipped."""
        t = self._clipped(t)
        return self.sigma.astype(t.dtype) * jnp.sqrt(t * (1 - t))

    def _clipped(self, t: Scalar) -> Scalar:
        margin = self.margin.astype(t.dtype)
        return jnp.clip(t, margin, 1 - margin)


class Trigonometric(AbstractInterpolant):
    r"""The quarter of an ellipse $x_t = \cos(\pi t / 2) x_0 + \sin(\pi t / 2) x_1$.

    It keeps the variance of independent ends of equal variance (Albergo and Vanden-Eijnden 2022,
    arXiv:2209.15571).
    """

    margin: Scalar

    def __init__(self):
        self.margin = jnp.zeros(())

    def position(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        del noise
        angle = 0.5 * math.pi * t
        return jnp.cos(angle) * x0 + jnp.sin(angle) * x1

    def velocity(self, t: Scalar, x0: Sample, x1: Sample, noise: Sample) -> Sample:
        del noise
        angle = 0.5 * math.pi * t
        return 0.5 * math.pi * (jnp.cos(angle) * x1 - jnp.sin(angle) * x0)


def not_negative(value: ArrayLike, name: str) -> Scalar:
    number = float_scalar(value, name, jnp.result_type(float))
    known = known_number(value)
    if known is not None and not known >= 0:
        raise ValueError(f"`{name}` must not be negative, got {value!r}.")
    return number
