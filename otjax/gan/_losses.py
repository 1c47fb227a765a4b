"""Losses of critics and generators, as pure functions of any callable critic."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._samples import Critic, real_and_fake, samples, scores


def critic_loss(critic: Critic, real: ArrayLike, fake: ArrayLike) -> Float[Array, ""]:
    r"""A Wasserstein critic's loss, $\mathbb{E} f(\mathrm{fake}) - \mathbb{E} f(\mathrm{real})$.

    By the duality of Kantorovich and Rubinstein its minimum over 1-Lipschitz critics is
    $-W_1(\mathrm{real}, \mathrm{fake})$ (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875,
    section 3), so minus this loss estimates $W_1$ from below, in the unit of the samples. The
    constraint is the caller's: `gradient_penalty`, `clip_weights`, or a critic of `otjax.nn` that
    is 1-Lipschitz by construction.

    **Arguments:**

    - `critic`: maps one sample to a scalar; it is vmapped here. Any callable pytree, such as an
        Equinox module, or `jax.tree_util.Partial(flax_model.apply, parameters)`.
    - `real`, `fake`: samples, shapes (n, ...) and (m, ...).

    **Raises:** `ValueError` for an empty batch, samples of different shapes or dtypes, and a critic
    that does not return a scalar.
    """
    real, fake = real_and_fake(real, fake)
    return jnp.mean(scores(critic, fake, "critic")) - jnp.mean(scores(critic, real, "critic"))


def generator_loss(critic: Critic, fake: ArrayLike) -> Float[Array, ""]:
    r"""The loss of a generator against a Wasserstein critic, $-\mathbb{E} f(\mathrm{fake})$.

    (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, theorem 3.)

    **Arguments:**

    - `critic`: as for `critic_loss`.
    - `fake`: samples of the generator, shape (n, ...).

    **Raises:** `ValueError`, as `critic_loss` does.
    """
    return -jnp.mean(scores(critic, samples(fake, "fake"), "critic"))


def jensen_shannon_critic_loss(
    critic: Critic, real: ArrayLike, fake: ArrayLike
) -> Float[Array, ""]:
    r"""The cross-entropy of a discriminator, $-\mathbb{E} \log D(\mathrm{real})
    - \mathbb{E} \log(1 - D(\mathrm{fake}))$, where the critic returns the logit of $D$.

    Its minimum over all critics is $2 \log 2 - 2\,\mathrm{JS}$, with JS the Jensen-Shannon
    divergence, in nats (Goodfellow et al. 2014, arXiv:1406.2661, theorem 1).

    **Arguments** and **raises:** as `critic_loss`.
    """
    real, fake = real_and_fake(real, fake)
    real_logits, fake_logits = scores(critic, real, "critic"), scores(critic, fake, "critic")
    return jnp.mean(jax.nn.softplus(-real_logits)) + jnp.mean(jax.nn.softplus(fake_logits))


def non_saturating_generator_loss(critic: Critic, fake: ArrayLike) -> Float[Array, ""]:
    r"""The generator's loss $-\mathbb{E} \log D(\mathrm{fake})$, where the critic returns logits.

    Its gradient does not vanish where the discriminator is sure (Goodfellow et al. 2014,
    arXiv:1406.2661, section 3).

    **Arguments** and **raises:** as `generator_loss`.
    """
    logits = scores(critic, samples(fake, "fake"), "critic")
    return jnp.mean(jax.nn.softplus(-logits))


def saturating_generator_loss(critic: Critic, fake: ArrayLike) -> Float[Array, ""]:
    r"""The generator's side of the minimax game, $\mathbb{E} \log(1 - D(\mathrm{fake}))$, where the
    critic returns logits.

    At the best critic its gradient is that of twice the Jensen-Shannon divergence: it vanishes
    where the supports are disjoint (Goodfellow et al. 2014, arXiv:1406.2661, equation 1; Arjovsky
    and Bottou 2017, arXiv:1701.04862, theorem 2.4).

    **Arguments** and **raises:** as `generator_loss`.
    """
    logits = scores(critic, samples(fake, "fake"), "critic")
    return -jnp.mean(jax.nn.softplus(logits))
