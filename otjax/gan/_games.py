"""The games of a critic and a generator, one object for each."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import optional_positive_number, positive_number
from .._ground_cost import GroundCost, SqEuclidean
from .._results import RESULTS
from .._sinkhorn_divergence import sinkhorn_divergence
from .._solver import AbstractSolver
from ._entropic import entropic_dual
from ._losses import (
    critic_loss,
    generator_loss,
    jensen_shannon_critic_loss,
    non_saturating_generator_loss,
    saturating_generator_loss,
)
from ._objective import AbstractGame, Loss
from ._penalty import mean_penalty, Penalty, TwoSided
from ._samples import real_and_fake
from ._slopes import AbstractPlace, known_place, Segments


class WGAN(AbstractGame):
    """The Wasserstein game, for a critic whose slope is bounded by other means.

    These are an optimiser that ends in `keep_params_within` (Arjovsky, Chintala and Bottou 2017,
    arXiv:1701.07875), `otjax.nn.spectral_norm(...)`, or a critic of layers that are 1-Lipschitz:
    `otjax.nn.LipschitzMLP`, `otjax.nn.LipschitzConv`. The critic's metric is `w1`, the estimate of
    the distance, which means something only where the slope is bounded by one: the last kind alone
    promises it.
    """

    def critic_loss(self, critic: Any, real: Array, fake: Array, *, key: Array) -> Loss:
        del key
        loss = critic_loss(critic, real, fake)
        return loss, {"w1": -loss}

    def generator_loss(self, critic: Any, real: Array, fake: Array) -> Loss:
        del real
        return generator_loss(critic, fake), {}


class PenalisedWGAN(AbstractGame):
    """The Wasserstein game with a gradient penalty: WGAN-GP, or one-sided, WGAN-LP.

    The critic's metrics are `w1`, the estimate of the distance, `penalty`, before its weight, and
    `gradient_norm`, the mean slope at the points of the penalty. Sources: see `gradient_penalty`.

    The defaults are those of WGAN-GP. What served best to estimate a distance, and the potential,
    is `PenalisedWGAN(30.0, penalty=OneSided(), at=Samples())`: see the page of the W1 benchmark. A
    penalty leaves a slope of about 1 + W1 / (2 weight), and with it a bias of W1, upwards.
    """

    weight: Float[Array, ""]
    penalty: Penalty
    at: AbstractPlace

    def __init__(
        self,
        weight: ArrayLike = 10.0,
        *,
        penalty: Penalty = TwoSided(),
        at: AbstractPlace = Segments(),
    ):
        """**Arguments:**

        - `weight`: of the penalty, positive.
        - `penalty`: `TwoSided()`, `OneSided()`, for which slopes below 1 are free, or any map from
            a slope to what it costs; it is vmapped.
        - `at`: where slopes are penalised: on `Segments()` between real and fake samples, or at the
            `Samples()` of both, which takes a third less work, and batches of any two sizes, but
            is for measures whose supports overlap.

        **Raises:** `ValueError` if `weight` is not a positive number, for a `penalty` that cannot
        be called, and an `at` that is no place.
        """
        self.weight = positive_number(weight, "weight")
        if not callable(penalty) or isinstance(penalty, type):
            raise ValueError(
                f"`penalty` must be a callable, `TwoSided()` or `OneSided()`, got {penalty!r}."
            )
        self.penalty = penalty
        self.at = known_place(at)

    def critic_loss(self, critic: Any, real: Array, fake: Array, *, key: Array) -> Loss:
        loss, norms = self.at.loss_and_norms(critic, real, fake, key=key)
        penalty = mean_penalty(self.penalty, norms)
        metrics = {"w1": -loss, "penalty": penalty, "gradient_norm": jnp.mean(norms)}
        return loss + self.weight.astype(loss.dtype) * penalty, metrics

    def generator_loss(self, critic: Any, real: Array, fake: Array) -> Loss:
        del real
        return generator_loss(critic, fake), {}


class JensenShannonGAN(AbstractGame):
    """The game of Goodfellow et al. (2014, arXiv:1406.2661), whose critic returns logits.

    The critic's metric is `jensen_shannon`, an estimate of that divergence from below, in nats: 0
    for equal distributions, and log 2 for disjoint ones, however near.
    """

    saturating: bool = eqx.field(static=True)

    def __init__(self, *, saturating: bool = False):
        """**Arguments:**

        - `saturating`: whether the generator plays the minimax game, whose gradient vanishes where
            the critic is sure, and not its non-saturating variant.
        """
        self.saturating = saturating

    def critic_loss(self, critic: Any, real: Array, fake: Array, *, key: Array) -> Loss:
        del key
        loss = jensen_shannon_critic_loss(critic, real, fake)
        return loss, {"jensen_shannon": math.log(2) - loss / 2}

    def generator_loss(self, critic: Any, real: Array, fake: Array) -> Loss:
        del real
        if self.saturating:
            return saturating_generator_loss(critic, fake), {}
        return non_saturating_generator_loss(critic, fake), {}


class SinkhornGAN(AbstractGame):
    r"""The Sinkhorn divergence between batches as the generator's loss: $W_2^2$, smoothed.

    Without a critic it compares samples, as vectors. A critic is a map from a sample to features,
    that are compared in its place: fixed where no critic steps are taken, and otherwise trained to
    maximise the divergence (Genevay, Peyré and Cuturi 2018, arXiv:1706.00292); then let its slope
    be bounded, or the features grow without end.

    The generator's metrics are `divergence`, `unconverged`, how many of the three solves did not
    converge, and `solver_steps`, the most that one of them took; the critic's, `divergence`. The
    loss is NaN where a sample or a feature is not finite.
    """

    epsilon: Float[Array, ""] | None
    cost: GroundCost
    solver: AbstractSolver | None

    def __init__(
        self,
        epsilon: ArrayLike | None = None,
        *,
        cost: GroundCost = SqEuclidean(),
        solver: AbstractSolver | None = None,
    ):
        """**Arguments:** as for `sinkhorn_divergence`.

        **Raises:** `ValueError` if `epsilon` is not a positive number.
        """
        self.epsilon = optional_positive_number(epsilon, "epsilon")
        self.cost = cost
        self.solver = solver

    def _divergence(self, critic: Any, real: Array, fake: Array) -> Loss:
        real, fake = (
            (batch if critic is None else jax.vmap(critic)(batch)).reshape(len(batch), -1)
            for batch in real_and_fake(real, fake)
        )
        value, solutions = sinkhorn_divergence(
            fake, real, epsilon=self.epsilon, cost=self.cost, solver=self.solver, has_aux=True
        )
        failed = jnp.stack([s.result != RESULTS.successful for s in solutions])
        metrics = {
            "divergence": value,
            "unconverged": jnp.sum(failed),
            "solver_steps": jnp.max(jnp.stack([s.stats.num_steps for s in solutions])),
        }
        # The divergence itself is finite whatever it is given; a training loop must see this.
        broken = solutions.xy.result == RESULTS.nonfinite_input
        return jnp.where(broken, jnp.nan, value), metrics

    def critic_loss(self, critic: Any, real: Array, fake: Array, *, key: Array) -> Loss:
        del key
        if critic is None:
            raise ValueError("`critic` must map a sample to features to be trained, got None.")
        value, metrics = self._divergence(critic, real, fake)
        return -value, {"divergence": metrics["divergence"]}

    def generator_loss(self, critic: Any, real: Array, fake: Array) -> Loss:
        return self._divergence(critic, real, fake)


class EntropicDualGAN(AbstractGame):
    """Entropic transport in its adversarial form: the critic is the pair (f, g) of its potentials.

    They maximise `entropic_dual` between real samples, at `f`, and fake ones, at `g`, by
    minibatches, and the generator minimises it. The critic's metric is `entropic_cost`, which
    estimates the `value` of `otjax.solve` from below. Sources: see `entropic_dual`. That cost is
    not debiased: at an `epsilon` that is not small the generator does best with samples nearer to
    each other than the real ones, where those of `SinkhornGAN` match them.
    """

    epsilon: Float[Array, ""]
    cost: GroundCost

    def __init__(self, epsilon: ArrayLike, *, cost: GroundCost = SqEuclidean()):
        """**Arguments:** as for `entropic_dual`.

        **Raises:** `ValueError` if `epsilon` is not a positive number.
        """
        self.epsilon = positive_number(epsilon, "epsilon")
        self.cost = cost

    def _value(self, critic: Any, real: Array, fake: Array) -> Float[Array, ""]:
        if not isinstance(critic, tuple) or len(critic) != 2:
            raise ValueError(f"`critic` must be a pair of potentials, (f, g), got {critic!r}.")
        real, fake = real_and_fake(real, fake)
        return entropic_dual(*critic, real, fake, epsilon=self.epsilon, cost=self.cost)

    def critic_loss(self, critic: Any, real: Array, fake: Array, *, key: Array) -> Loss:
        del key
        value = self._value(critic, real, fake)
        return -value, {"entropic_cost": value}

    def generator_loss(self, critic: Any, real: Array, fake: Array) -> Loss:
        return self._value(critic, real, fake), {}
