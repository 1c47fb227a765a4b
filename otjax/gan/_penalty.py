"""Gradient penalties, which hold a critic's slope at one, or below one."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from ._losses import critic_loss
from ._samples import Critic, real_and_fake, samples, scalar_output


# Where slopes are penalised: on the segments between real and fake samples, or at the samples.
Where: TypeAlias = Literal["segments", "samples"]


def known_place(at: Where) -> Where:
    """**Raises:** `ValueError` if the points of a penalty are called by another name."""
    if at not in ("segments", "samples"):
        raise ValueError(f"`at` must be 'segments' or 'samples', got {at!r}.")
    return at


def gradient_norms(critic: Critic, points: ArrayLike) -> Float[Array, " n"]:
    """The Euclidean norm of the critic's gradient at each point.

    Where the gradient vanishes the derivative of its norm is taken to be 0, so that a penalty on
    it can be differentiated anywhere.

    **Arguments:**

    - `critic`: maps one sample to a scalar; it is vmapped here.
    - `points`: shape (n, ...).

    **Raises:** `ValueError`, as `critic_loss` does.
    """
    return _scores_and_norms(critic, samples(points, "points"))[1]


def _scores_and_norms(
    critic: Critic, points: Float[Array, "n ..."]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The critic at each point and the norm of its gradient there, in one pass."""
    value_and_grad = jax.value_and_grad(scalar_output(critic, "critic"))
    values, gradients = jax.vmap(value_and_grad)(points)
    squared = jnp.sum(jnp.square(gradients.reshape(len(gradients), -1)), axis=1)
    positive = squared > 0
    return values, jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def _points(
    real: Float[Array, "n ..."], fake: Float[Array, "m ..."], key: Array | None, at: Where
) -> Float[Array, "points ..."]:
    """All samples, or a uniform point on the segment of each pair of a real and a fake one."""
    if known_place(at) == "samples":
        return jnp.concatenate([real, fake])
    if key is None:
        raise ValueError("`key` must be given to draw points on segments, or `at='samples'`.")
    if len(real) != len(fake):
        raise ValueError(
            f"`fake` must hold as many samples as `real`, {len(real)}, got {len(fake)}: the "
            "penalty joins them in pairs; or pass `at='samples'`."
        )
    share = jr.uniform(key, (len(real), *[1] * (real.ndim - 1)), real.dtype)
    return real + share * (fake - real)


def slope_penalty(norms: Float[Array, " n"], one_sided: bool) -> Float[Array, ""]:
    """The mean square of the distance of the norms from 1, or of their excess over 1."""
    excess = norms - 1
    return jnp.mean(jnp.square(jax.nn.relu(excess) if one_sided else excess))


def critic_loss_and_norms(
    critic: Critic, real: ArrayLike, fake: ArrayLike, *, key: Array | None, at: Where
) -> tuple[Float[Array, ""], Float[Array, " points"]]:
    """The loss of a Wasserstein critic, and its slopes where they are penalised.

    At the samples both come from one pass, which spares a third of the work.
    """
    real, fake = real_and_fake(real, fake)
    values, norms = _scores_and_norms(critic, _points(real, fake, key, at))
    if at == "segments":
        return critic_loss(critic, real, fake), norms
    return jnp.mean(values[len(real) :]) - jnp.mean(values[: len(real)]), norms


def gradient_penalty(
    critic: Critic,
    real: ArrayLike,
    fake: ArrayLike,
    *,
    key: Array | None = None,
    one_sided: bool = False,
    at: Where = "segments",
) -> Float[Array, ""]:
    r"""The gradient penalty $\mathbb{E} (\|\nabla f(\hat x)\| - 1)^2$ at points $\hat x$ uniform on
    the segments between real and fake samples, without its weight, which is commonly 10.

    Two-sided it is that of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028, equation 3);
    one-sided, $\mathbb{E} \max(\|\nabla f(\hat x)\| - 1, 0)^2$, that of WGAN-LP (Petzka, Fischer
    and Lukovnikov 2018, arXiv:1709.08894). Finite, with finite derivatives, also where the critic's
    gradient vanishes.

    The samples themselves, of both measures, can take the place of points between them: the ends of
    every path of the transport are among them, they need no pairs, and the values of the critic
    come with its slopes. Between two supports that are apart they leave the slope free, and the
    estimate of W1 without a bound: there, as with the first samples of a generator, take segments.
    `PenalisedWGAN` says what to start from.

    **Arguments:**

    - `critic`: maps one sample to a scalar; it is vmapped here.
    - `real`, `fake`: samples, shapes (n, ...) and (m, ...); on segments they are pairs, n = m.
    - `key`: draws the point on each segment; not needed at samples.
    - `one_sided`: whether slopes below 1 are free.
    - `at`: `"segments"`, or `"samples"`: the mean is over all n + m of them.

    **Raises:** `ValueError` as `critic_loss` does, for another `at`, and on segments for batches of
    different sizes and without a key.
    """
    real, fake = real_and_fake(real, fake)
    points = _points(real, fake, key, at)
    return slope_penalty(gradient_norms(critic, points), one_sided)
