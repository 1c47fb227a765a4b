"""The regressions that train Schrödinger bridges: of drifts, and of velocities with scores."""

from typing import Literal, overload

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Float

from ._batches import checked_velocity, Velocity
from ._coupling import AbstractCoupling, Independent
from ._interpolant import BrownianBridge
from ._pairs import Pairs
from ._paths import draw_paths


def _checked_bridge(bridge: BrownianBridge) -> BrownianBridge:
    if not isinstance(bridge, BrownianBridge):
        raise ValueError(f"`bridge` must be `BrownianBridge(sigma)`, got {bridge!r}.")
    return bridge


@overload
def bridge_loss(
    drift: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    bridge: BrownianBridge,
    coupling: AbstractCoupling = Independent(),
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def bridge_loss(
    drift: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    bridge: BrownianBridge,
    coupling: AbstractCoupling = Independent(),
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], Pairs]: ...


@eqx.filter_jit
def bridge_loss(
    drift: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    bridge: BrownianBridge,
    coupling: AbstractCoupling = Independent(),
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Pairs]:
    r"""The loss of bridge matching: how far a drift is from those of bridges between pairs,

    $$\mathbb{E} \left\| b(t, x_t) - \frac{x_1 - x_t}{1 - t} \right\|^2.$$

    The process $dX = b\, dt + \sigma\, dW$ of the drift that minimises it has the marginals of the
    bridges: their Markovian projection (Shi et al. 2023, arXiv:2303.16852; Peluchetti 2023,
    arXiv:2304.00917). Iterative Markovian fitting repeats two lines, each time with the ends
    exchanged:

    ```python
    loss = bridge_loss(drift, key, x0, x1, bridge=bridge, coupling=Paired())  # fit it, then
    x1 = diffuse(drift, key, x0, sigma=bridge.sigma).samples                  # new pairs
    ```

    and backward in time with `bridge_loss(backward, key, x1, x0, ...)` and `diffuse(backward, key,
    x1, ...)`. Its fixed point is the Schrödinger bridge, whose drift is the minimum at once for
    pairs from the entropic plan at $\epsilon = 2 \sigma^2$.

    Invalid input (NaN or infinite samples) gives NaN, with gradient zero.

    **Arguments:**

    - `drift`: maps a time and one sample, `(t, x)`, or `(t, x, condition)` where there is one, to
        the drift, like the sample; it is vmapped here. Any callable pytree.
    - `bridge`: the `BrownianBridge`, whose `sigma` is the diffusion.
    - `key`, `x0`, `x1`, `condition`, `coupling`, `has_aux`: as for `velocity_loss`.

    **Returns:** the loss, in the squared unit of the samples; with `has_aux` the pair of it and the
    pairs.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    paths = draw_paths(key, x0, x1, condition, coupling, _checked_bridge(bridge))
    targets = jax.vmap(bridge.drift)(*paths.given)
    loss = paths.loss(jax.vmap(checked_velocity(drift, "drift"))(*paths.seen) - targets)
    return (loss, paths.pairs) if has_aux else loss


@overload
def score_and_flow_loss(
    velocity: Velocity,
    score: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    *,
    bridge: BrownianBridge,
    coupling: AbstractCoupling = Independent(),
    has_aux: Literal[False] = False,
) -> Float[Array, ""]: ...


@overload
def score_and_flow_loss(
    velocity: Velocity,
    score: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    *,
    bridge: BrownianBridge,
    coupling: AbstractCoupling = Independent(),
    has_aux: Literal[True],
) -> tuple[Float[Array, ""], Pairs]: ...


@eqx.filter_jit
def score_and_flow_loss(
    velocity: Velocity,
    score: Velocity,
    key: Array,
    x0: ArrayLike,
    x1: ArrayLike,
    *,
    bridge: BrownianBridge,
    coupling: AbstractCoupling = Independent(),
    has_aux: bool = False,
) -> Float[Array, ""] | tuple[Float[Array, ""], Pairs]:
    r"""The loss of a velocity and a score together (Tong et al. 2023, arXiv:2307.03672),

    $$\mathbb{E} \left\| v(t, x_t) - \dot x_t \right\|^2
      + \mathbb{E} \left\| \sigma \sqrt{t (1 - t)}\, s(t, x_t) + z \right\|^2,$$

    with $z$ the noise of the bridge. The velocity carries samples without noise, by `integrate`;
    with the score, $v + \frac{\sigma^2}2 s$ is the drift of the process with the same marginals,
    for `diffuse`, and $-v + \frac{\sigma^2}2 s$ that backward in time. With pairs from the entropic
    plan at $\epsilon = 2 \sigma^2$ they are those of the Schrödinger bridge.

    Invalid input (NaN or infinite samples) gives NaN, with gradient zero.

    **Arguments:**

    - `velocity`, `score`: each maps a time and one sample, `(t, x)`, to an array like the sample;
        both are vmapped here. Any callable pytrees.
    - `bridge`: the `BrownianBridge`, whose `sigma` is the diffusion.
    - `key`, `x0`, `x1`, `coupling`, `has_aux`: as for `velocity_loss`.

    **Returns:** the loss; with `has_aux` the pair of it and the pairs.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    paths = draw_paths(key, x0, x1, None, coupling, _checked_bridge(bridge))
    targets = jax.vmap(bridge.velocity)(*paths.given)
    times, *_, noise = paths.given
    of_velocity = jax.vmap(checked_velocity(velocity))(*paths.seen) - targets
    scores = jax.vmap(checked_velocity(score, "score"))(*paths.seen)
    of_score = jax.vmap(lambda t, s, z: bridge.spread(t) * s + z)(times, scores, noise)
    loss = paths.loss(of_velocity) + paths.loss(of_score)
    return (loss, paths.pairs) if has_aux else loss
