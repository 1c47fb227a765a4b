"""Gradient penalties, which hold a critic's slope at one, or below one."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._samples import Critic
from ._slopes import AbstractPlace, gradient_norms, known_place, Segments


# What a slope costs: a callable of one, and a pytree.
Penalty: TypeAlias = Callable[[Float[Array, ""]], Float[Array, ""]]


class TwoSided(eqx.Module):
    r"""The penalty of a slope that is not one, $(s - 1)^2$: WGAN-GP (Gulrajani et al. 2017,
    arXiv:1704.00028, equation 3)."""

    def __call__(self, slope: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.square(slope - 1)


class OneSided(eqx.Module):
    r"""The penalty of a slope above one, $\max(s - 1, 0)^2$: WGAN-LP (Petzka, Fischer and
    Lukovnikov 2018, arXiv:1709.08894)."""

    def __call__(self, slope: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.square(jax.nn.relu(slope - 1))


def mean_penalty(penalty: Penalty, norms: Float[Array, " n"]) -> Float[Array, ""]:
    """The mean over all slopes of what each costs."""
    return jnp.mean(jax.vmap(penalty)(norms))


def gradient_penalty(
    critic: Critic,
    real: ArrayLike,
    fake: ArrayLike,
    *,
    key: Array | None = None,
    one_sided: bool = False,
    at: AbstractPlace = Segments(),
) -> Float[Array, ""]:
    r"""The gradient penalty $\mathbb{E} (\|\nabla f(\hat x)\| - 1)^2$ at points $\hat x$ uniform on
    the segments between real and fake samples, without its weight, which is commonly 10.

    Two-sided it is that of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028, equation 3);
    one-sided, $\mathbb{E} \max(\|\nabla f(\hat x)\| - 1, 0)^2$, that of WGAN-LP (Petzka, Fischer
    and Lukovnikov 2018, arXiv:1709.08894). Finite, with finite derivatives, also where the critic's
    gradient vanishes. `PenalisedWGAN` says what to start from.

    **Arguments:**

    - `critic`: maps one sample to a scalar; it is vmapped here.
    - `real`, `fake`: samples, shapes (n, ...) and (m, ...); on segments they are pairs, n = m.
    - `key`: draws the point on each segment; not needed at samples.
    - `one_sided`: whether slopes below 1 are free.
    - `at`: `Segments()`, or `Samples()`: the mean is over all n + m of them.

    **Raises:** `ValueError` as `critic_loss` does, for another `at`, and on segments for batches of
    different sizes and without a key.
    """
    norms = gradient_norms(critic, known_place(at).points(real, fake, key=key))
    return mean_penalty(OneSided() if one_sided else TwoSided(), norms)
