"""A critic's slopes, and where they are taken."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from ._losses import critic_loss
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


class AbstractPlace(eqx.Module):
    """Where a critic's slope is penalised."""

    @abc.abstractmethod
    def points(
        self, real: ArrayLike, fake: ArrayLike, *, key: Array | None
    ) -> Float[Array, "points ..."]:
        """The points, made of samples.

        **Arguments:**

        - `real`, `fake`: samples, shapes (n, ...) and (m, ...).
        - `key`: for what is drawn; None where nothing is.

        **Raises:** `ValueError` for samples that do not fit each other, or the place.
        """

    @abc.abstractmethod
    def loss_and_norms(
        self, critic: Critic, real: ArrayLike, fake: ArrayLike, *, key: Array | None
    ) -> tuple[Float[Array, ""], Float[Array, " points"]]:
        """The loss of a Wasserstein critic, `critic_loss`, and its `gradient_norms` at the points.

        **Arguments** and **raises:** as `points` and `critic_loss`.
        """


class Segments(AbstractPlace):
    """A uniform point on the segment of each pair of a real and a fake sample; so n = m.

    Gulrajani et al. 2017, arXiv:1704.00028, section 4.
    """

    def points(
        self, real: ArrayLike, fake: ArrayLike, *, key: Array | None
    ) -> Float[Array, "points ..."]:
        real, fake = real_and_fake(real, fake)
        if key is None:
            raise ValueError("`key` must be given to draw points on segments, or `at=Samples()`.")
        if len(real) != len(fake):
            raise ValueError(
                f"`fake` must hold as many samples as `real`, {len(real)}, got {len(fake)}: the "
                "penalty joins them in pairs; or pass `at=Samples()`."
            )
        share = jr.uniform(key, (len(real), *[1] * (real.ndim - 1)), real.dtype)
        return real + share * (fake - real)

    def loss_and_norms(
        self, critic: Critic, real: ArrayLike, fake: ArrayLike, *, key: Array | None
    ) -> tuple[Float[Array, ""], Float[Array, " points"]]:
        norms = gradient_norms(critic, self.points(real, fake, key=key))
        return critic_loss(critic, real, fake), norms


class Samples(AbstractPlace):
    """All n + m samples themselves, of both measures; no key is needed.

    The ends of every path of the transport are among them, they need no pairs, and the values of
    the critic come with its slopes, which spares a third of the work. Between two supports that are
    apart they leave the slope free, and the estimate of W1 without a bound: there, as with the
    first samples of a generator, take `Segments`.
    """

    def points(
        self, real: ArrayLike, fake: ArrayLike, *, key: Array | None
    ) -> Float[Array, "points ..."]:
        del key
        return jnp.concatenate(real_and_fake(real, fake))

    def loss_and_norms(
        self, critic: Critic, real: ArrayLike, fake: ArrayLike, *, key: Array | None
    ) -> tuple[Float[Array, ""], Float[Array, " points"]]:
        values, norms = _scores_and_norms(critic, self.points(real, fake, key=key))
        num = jnp.shape(real)[0]
        return jnp.mean(values[num:]) - jnp.mean(values[:num]), norms


def known_place(at: AbstractPlace) -> AbstractPlace:
    """**Raises:** `ValueError` if it is no place."""
    if not isinstance(at, AbstractPlace):
        raise ValueError(f"`at` must be a place such as `Segments()` or `Samples()`, got {at!r}.")
    return at
