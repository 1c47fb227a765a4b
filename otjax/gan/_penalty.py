"""Gradient penalties, which hold a critic's slope at one, or below one."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from ._samples import Critic, real_and_fake, samples, scalar_output


def gradient_norms(critic: Critic, points: ArrayLike) -> Float[Array, " n"]:
    """The Euclidean norm of the critic's gradient at each point.

    Where the gradient vanishes the derivative of its norm is taken to be 0, so that a penalty on
    it can be differentiated anywhere.

    **Arguments:**

    - `critic`: maps one sample to a scalar; it is vmapped here.
    - `points`: shape (n, ...).

    **Raises:** `ValueError`, as `critic_loss` does.
    """
    gradients = jax.vmap(jax.grad(scalar_output(critic, "critic")))(samples(points, "points"))
    squared = jnp.sum(jnp.square(gradients.reshape(len(gradients), -1)), axis=1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def points_on_segments(real: ArrayLike, fake: ArrayLike, key: Array) -> Float[Array, "n ..."]:
    """A uniform point on the segment of each pair of a real and a fake sample."""
    real, fake = real_and_fake(real, fake)
    if len(real) != len(fake):
        raise ValueError(
            f"`fake` must hold as many samples as `real`, {len(real)}, got {len(fake)}: the "
            "penalty joins them in pairs."
        )
    share = jr.uniform(key, (len(real), *[1] * (real.ndim - 1)), real.dtype)
    return real + share * (fake - real)


def slope_penalty(norms: Float[Array, " n"], one_sided: bool) -> Float[Array, ""]:
    """The mean square of the distance of the norms from 1, or of their excess over 1."""
    excess = norms - 1
    return jnp.mean(jnp.square(jax.nn.relu(excess) if one_sided else excess))


def gradient_penalty(
    critic: Critic, real: ArrayLike, fake: ArrayLike, *, key: Array, one_sided: bool = False
) -> Float[Array, ""]:
    r"""The gradient penalty $\mathbb{E} (\|\nabla f(\hat x)\| - 1)^2$ at points $\hat x$ uniform on
    the segments between real and fake samples, without its weight, which is commonly 10.

    Two-sided it is that of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028, equation 3);
    one-sided, $\mathbb{E} \max(\|\nabla f(\hat x)\| - 1, 0)^2$, that of WGAN-LP (Petzka, Fischer
    and Lukovnikov 2018, arXiv:1709.08894). Finite, with finite derivatives, also where the critic's
    gradient vanishes.

    **Arguments:**

    - `critic`: maps one sample to a scalar; it is vmapped here.
    - `real`, `fake`: samples in pairs, both of shape (n, ...).
    - `key`: draws the point on each segment.
    - `one_sided`: whether slopes below 1 are free.

    **Raises:** `ValueError` as `critic_loss` does, and for batches of different sizes.
    """
    return slope_penalty(gradient_norms(critic, points_on_segments(real, fake, key)), one_sided)
