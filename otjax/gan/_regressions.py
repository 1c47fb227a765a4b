"""What the trainer trains without a game: velocities, drifts of processes, one-step generators."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from .. import flow
from .._results import RESULTS
from ._batches import Ends
from ._objective import AbstractObjective, generated, Latents, Loss
from ._parameters import all_finite


class FlowMatching(AbstractObjective):
    """A velocity field from latents to data: `otjax.flow.velocity_loss`, for the `Trainer`.

    The model is a velocity, `(t, x)` or `(t, x, condition)`, and the latents are samples of the
    start, of the shape of the data. Data are an array, the samples of the end, or `Ends` of them
    with their conditions; with starts of their own, such as `otjax.flow.reflow` makes, they are
    paired by `Paired()`, and no latents are drawn.

    The metrics tell how good the coupling was: `relative_cost`, `entropy`, `marginal_error` and
    `unconverged`, which is 1 where a plan has not converged.
    """

    coupling: flow.AbstractCoupling
    interpolant: flow.AbstractInterpolant
    num_starts: int | None = eqx.field(static=True)

    def __init__(
        self,
        coupling: flow.AbstractCoupling = flow.Independent(),
        *,
        interpolant: flow.AbstractInterpolant | None = None,
        num_starts: int | None = None,
    ):
        """**Arguments:**

        - `coupling`, `interpolant`: as for `velocity_loss`.
        - `num_starts`: how many latents are drawn; None is as many as there are samples of the
            end. Fewer serve `Semidiscrete`, whose data are taken whole: let `batch_size` be their
            number.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        self.coupling = _checked(coupling)
        interpolant = flow.Linear() if interpolant is None else interpolant
        if not isinstance(interpolant, flow.AbstractInterpolant):
            raise ValueError(f"`interpolant` must be one such as `Linear()`, got {interpolant!r}.")
        self.interpolant = interpolant
        if num_starts is not None and (not isinstance(num_starts, int) or num_starts < 1):
            raise ValueError(
                f"`num_starts` must be a whole number, at least 1, got {num_starts!r}."
            )
        self.num_starts = num_starts

    def loss(
        self, model: Any, critic: Any, real: Array | Ends, latents: Latents, *, key: Array
    ) -> Loss:
        del critic
        key_starts, key_loss = jr.split(key)
        ends = real if isinstance(real, Ends) else Ends(real)
        if ends.x0 is None:
            starts = latents(key_starts, self.num_starts or len(ends.x1))
        else:
            starts = ends.x0
        loss, pairs = flow.velocity_loss(
            model,
            key_loss,
            starts.astype(ends.x1.dtype),
            ends.x1,
            ends.condition,
            coupling=self.coupling,
            interpolant=self.interpolant,
            has_aux=True,
        )
        return loss, _told(pairs)


class BridgeMatching(AbstractObjective):
    """The drift of a process from latents to data: `otjax.flow.bridge_loss`, for the `Trainer`.

    The model is a drift, and what else is said of `FlowMatching` holds here too, its metrics
    included. With `Paired()` and `Ends` of simulated pairs it is a half of iterative Markovian
    fitting; the other half has the ends exchanged.
    """

    bridge: flow.BrownianBridge
    coupling: flow.AbstractCoupling

    def __init__(
        self, bridge: flow.BrownianBridge, coupling: flow.AbstractCoupling = flow.Independent()
    ):
        """**Arguments:** as for `bridge_loss`.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        if not isinstance(bridge, flow.BrownianBridge):
            raise ValueError(f"`bridge` must be `BrownianBridge(sigma)`, got {bridge!r}.")
        self.bridge, self.coupling = bridge, _checked(coupling)

    def loss(
        self, model: Any, critic: Any, real: Array | Ends, latents: Latents, *, key: Array
    ) -> Loss:
        del critic
        key_starts, key_loss = jr.split(key)
        ends = real if isinstance(real, Ends) else Ends(real)
        starts = latents(key_starts, len(ends.x1)) if ends.x0 is None else ends.x0
        loss, pairs = flow.bridge_loss(
            model,
            key_loss,
            starts.astype(ends.x1.dtype),
            ends.x1,
            ends.condition,
            bridge=self.bridge,
            coupling=self.coupling,
            has_aux=True,
        )
        return loss, _told(pairs)


class Drifting(AbstractObjective):
    """A one-step generator that follows a drift: `otjax.flow.drift_loss`, for the `Trainer`.

    The model maps a latent to a sample. The metrics are `size`, the raw size of the drift, `w2`, in
    the unit of the samples, and `unconverged`, which is 1 where a plan has not converged: of a
    normalised drift the loss is constant.

    A trainer that is given the data in `init` has each step start its solves from the potentials of
    the step before, which are functions of space and fit other batches too: fewer iterations for
    the same gradient.
    """

    drift: flow.AbstractDrift

    def __init__(self, drift: flow.AbstractDrift):
        """**Arguments:**

        - `drift`: `SinkhornDrift(epsilon)`, `SplitSinkhornDrift(epsilon)`, `MeanShift(...)`, or one
            that is `Followed(...)`.

        **Raises:** `ValueError` for a drift that is none.
        """
        if not isinstance(drift, flow.AbstractDrift):
            raise ValueError(f"`drift` must be one such as `SinkhornDrift(0.1)`, got {drift!r}.")
        self.drift = drift

    def start(self, model: Any, real: Array, latents: Latents, *, key: Array) -> flow.Drift:
        return self.drift.evaluate(generated(model, latents, key), real)

    def loss_from(
        self,
        known: flow.Drift | None,
        model: Any,
        critic: Any,
        real: Array,
        latents: Latents,
        *,
        key: Array,
    ) -> tuple[Loss, flow.Drift | None]:
        del critic
        loss, found = flow.drift_loss(
            model, real, self.drift, latents=latents(key), init=known, has_aux=True
        )
        metrics = {"size": found.size, "w2": found.w2, "unconverged": _failed(found.result)}
        if known is not None:
            # Potentials that are no numbers would spoil all steps to come.
            usable = all_finite((found.field, found.w2))
            known = jax.tree.map(lambda new, old: jnp.where(usable, new, old), found, known)
        return (loss, metrics), known

    def loss(self, model: Any, critic: Any, real: Array, latents: Latents, *, key: Array) -> Loss:
        return self.loss_from(None, model, critic, real, latents, key=key)[0]


def _checked(coupling: Any) -> flow.AbstractCoupling:
    if not isinstance(coupling, flow.AbstractCoupling):
        raise ValueError(f"`coupling` must be a coupling such as `Minibatch()`, got {coupling!r}.")
    return coupling


def _told(pairs: flow.Pairs) -> dict[str, Array]:
    names = ("relative_cost", "entropy", "marginal_error")
    return {name: getattr(pairs, name) for name in names} | {"unconverged": _failed(pairs.result)}


def _failed(result: RESULTS) -> Array:
    return (result != RESULTS.successful).astype(jnp.int32)
