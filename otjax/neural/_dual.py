"""The dual of the squared Wasserstein distance as a minimisation over convex networks."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from .._arrays import positive_number
from .._ground_cost import Euclidean, pairwise
from .._results import raise_unless_successful, RESULTS
from .._varying import scan
from ..gan._parameters import all_finite, strong, trained, update
from ._frame import Frame, frame_of
from ._measure import Measure, samplers
from ._methods import AbstractConjugation, Amortised, Map, Potential
from ._networks import checked_networks, default_networks
from ._refinement import Refinement
from ._solution import NeuralMap


# Batches that the frame's moments are taken of.
_MOMENT_BATCHES = 100
# Of conjugates that are handed out: many, as there is no next step to make up for them.
_FINAL_REFINEMENT = Refinement(30)

Draw = Callable[[PRNGKeyArray], Array]


class Descent(eqx.Module):
    """Stochastic gradient descent of both networks, by any optax optimiser."""

    max_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    num_tests: int = eqx.field(static=True)
    optimiser: optax.GradientTransformation | None

    def __init__(
        self,
        *,
        max_steps: int = 2000,
        batch_size: int = 256,
        num_tests: int = 20,
        optimiser: optax.GradientTransformation | None = None,
    ):
        """**Arguments:**

        - `max_steps`: how many steps are taken, each with new samples.
        - `batch_size`: how many points a step draws where points are given, at least 2; a sampler
            draws as many as it draws.
        - `num_tests`: how many batches the value and the errors are then estimated with, at least
            2.
        - `optimiser`: makes the steps of each network, by any optax transformation. `None` is Adam,
            with a rate that falls from 1e-2 to 0. (Make it once: another one compiles anew.)

        **Raises:** `ValueError` for numbers out of range.
        """
        for name, number, least in (
            ("max_steps", max_steps, 1),
            ("batch_size", batch_size, 2),
            ("num_tests", num_tests, 2),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"`{name}` must be at least {least}, got {number!r}.")
        self.max_steps, self.batch_size, self.num_tests = max_steps, batch_size, num_tests
        self.optimiser = optimiser

    def optimiser_of(self, steps: int) -> optax.GradientTransformation:
        """That of a network that makes so many steps."""
        if self.optimiser is not None:
            return self.optimiser
        return optax.adam(optax.cosine_decay_schedule(1e-2, steps), b2=0.99)


def neural_map(
    source: Measure,
    target: Measure,
    *,
    key: PRNGKeyArray,
    networks: tuple[Potential, Callable] | None = None,
    method: AbstractConjugation = Amortised(),
    descent: Descent = Descent(),
    tolerance: ArrayLike = 0.1,
    throw: bool = True,
) -> NeuralMap:
    r"""The optimal map for the squared distance between two distributions, as the gradient of a
    convex network, by the dual

    $$\tfrac12 W_2^2 = \tfrac12 \mathbb{E} |x|^2 + \tfrac12 \mathbb{E} |y|^2
      - \min_\varphi \left( \mathbb{E}\, \varphi(x) + \mathbb{E}\, \varphi^*(y) \right).$$

    The networks work in coordinates, found first, in which the best linear map is the identity. It
    is what they improve on. Any convex $\varphi$ bounds $W_2^2$ from below, but for the noise of
    the samples, where its conjugate is exact.

    **Arguments:**

    - `source`, `target`: each points, shape (n, d), all of one mass, or a function of a key that
        draws a batch of such points. (The same object each time, lest all be compiled anew.)
    - `key`: of `jax.random`.
    - `networks`: the potential, a function of one point, convex lest the map be no optimal one, and
        the predictor, a map of one point or a function whose gradient it is; they see points whose
        mean is 0 and mean variance 1. Or those of an earlier result, to go on. `None` is a
        `otjax.nn.QuadraticICNN` of width 2 d, at least 64, and what suits the method.
    - `method`: how conjugates are had: `Amortised()`, `Cycle()` or `MinMax()`.
    - `descent`: how the networks are trained.
    - `tolerance`: the `error` that counts as success.
    - `throw`: whether a result other than `successful` raises; otherwise it is returned.

    **Returns:** a `NeuralMap`. It carries no derivatives by the samples; its methods have those by
    the points and the parameters.

    **Raises:** `ValueError` for arguments of the wrong kind; a `RuntimeError` that says what to
    change if the error is not reached or numbers are invalid, and `throw` is true.
    """
    for name, value, kind in (
        ("method", method, AbstractConjugation),
        ("descent", descent, Descent),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"`{name}` must be a `{kind.__name__}`, got {value!r}.")
    draw_x, draw_y, batch = samplers(source, target, descent.batch_size)
    key_networks, key = jr.split(key)
    if networks is None:
        networks = default_networks(method, batch.shape[1], batch.dtype, key_networks)
    networks = checked_networks(networks, jax.ShapeDtypeStruct(batch.shape[1:], batch.dtype))
    tolerance = positive_number(tolerance, "tolerance", batch.dtype)
    found = _neural_map(draw_x, draw_y, key, strong(networks), method, descent, tolerance)
    if throw:
        found = raise_unless_successful(found, found.result)
    return found


@eqx.filter_jit
def _neural_map(draw_x, draw_y, key, networks, method, descent, tolerance) -> NeuralMap:
    key_frame, key_steps, key_tests = jr.split(key, 3)
    frame, valid = frame_of(draw_x, draw_y, key_frame, _MOMENT_BATCHES)
    networks, history, finite = _descend(
        frame, (draw_x, draw_y), key_steps, networks, method, descent
    )
    zero = jnp.zeros((), history.dtype)
    found = NeuralMap(
        networks, zero, zero, zero, zero, history, RESULTS.successful, frame, _FINAL_REFINEMENT
    )
    numbers = _test(found, (draw_x, draw_y), key_tests, descent.num_tests)
    known = jnp.all(jnp.isfinite(jnp.stack(numbers)))
    value, value_error, error, residual = (jnp.where(known, number, 0) for number in numbers)
    result = RESULTS.where(error <= tolerance, RESULTS.successful, RESULTS.max_steps_reached)
    result = RESULTS.where(finite & known, result, RESULTS.nonfinite)
    result = RESULTS.where(valid, result, RESULTS.nonfinite_input)
    return NeuralMap(
        networks, value, value_error, error, residual,
        jnp.nan_to_num(history), result, frame, _FINAL_REFINEMENT,
    )  # fmt: skip


def _descend(
    frame: Frame,
    draws: tuple[Draw, Draw],
    key: PRNGKeyArray,
    networks: tuple[Potential, Map],
    method: AbstractConjugation,
    descent: Descent,
) -> tuple[tuple[Potential, Map], Float[Array, " steps"], Bool[Array, ""]]:
    """The networks, the dual on the way, and whether the last step was finite."""
    optimisers = [descent.optimiser_of(descent.max_steps * n) for n in (1, method.num_inner)]

    def predictor_step(arrays: Any, key: PRNGKeyArray) -> tuple[Any, tuple[Array, Array]]:
        """Also the batch, and the points that its conjugates are at."""
        potential, predictor, state, predictor_state = eqx.combine(arrays, still)
        y = draws[1](key)
        y_in = jax.vmap(frame.y_in)(y)
        to = method.conjugate(potential, predictor, y_in)
        loss = lambda predictor: (method.predictor_loss(potential, predictor, y_in, to), {})
        predictor, predictor_state, *_ = update(loss, optimisers[1], predictor, predictor_state)
        models = potential, predictor, state, predictor_state
        return eqx.filter(models, eqx.is_array), (y, to)

    def step(arrays: Any, number: Int[Array, ""]) -> tuple[Any, tuple[Array, Array]]:
        key_x, key_y = jr.split(jr.fold_in(key, number))
        if method.num_inner == 1:
            new, (y, to) = predictor_step(arrays, key_y)
        else:
            new, batches = scan(predictor_step, arrays, jr.split(key_y, method.num_inner))
            y, to = jax.tree.map(lambda batch: batch[-1], batches)
        potential, predictor, state, predictor_state = eqx.combine(new, still)
        x = draws[0](key_x)
        x_in, y_in = jax.vmap(frame.x_in)(x), jax.vmap(frame.y_in)(y)

        def loss(potential: Potential) -> tuple[Array, Any]:
            values = jax.vmap(potential)(x_in)
            loss = jnp.mean(values) + method.potential_loss(potential, y_in, to)
            return loss, {"dual": _dual(frame, (x, values), (y, y_in, to), potential)}

        potential, state, _, metrics = update(loss, optimisers[0], potential, state)
        new = eqx.filter((potential, predictor, state, predictor_state), eqx.is_array)
        # A step to what is not finite is not taken.
        finite = all_finite(new)
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, arrays)
        return new, (metrics["dual"], finite)

    potential, predictor = networks
    states = (opt.init(trained(net)) for opt, net in zip(optimisers, networks, strict=True))
    arrays, still = eqx.partition((potential, predictor, *states), eqx.is_array)
    steps = jnp.arange(descent.max_steps, dtype=jnp.int32)
    arrays, (history, finite) = scan(step, strong(arrays), steps)
    potential, predictor, *_ = eqx.combine(arrays, still)
    return (potential, predictor), history, finite[-1]


def _dual(
    frame: Frame, source: tuple[Array, Array], target: tuple[Array, Array, Array], potential: Map
) -> Float[Array, ""]:
    """The squared distance by the dual: of points with their values in the frame, and of others
    with the points of the frame that their conjugates are at."""
    (x, values), (y, y_in, to) = source, target
    conjugates = jnp.sum(to * y_in, axis=1) - jax.vmap(potential)(to)
    of_x, of_y = jax.vmap(frame.x_cost)(x, values), jax.vmap(frame.y_cost)(y, conjugates)
    return jnp.mean(of_x) + jnp.mean(of_y) + frame.means_cost


def _test(
    found: NeuralMap, draws: tuple[Draw, Draw], key: PRNGKeyArray, num_tests: int
) -> tuple[Array, Array, Array, Array]:
    """Value with its standard error, the energy distance, and the residual of the inverse, on new
    samples."""
    frame, potential = found.frame, found.networks[0]

    def test(_: None, number: Int[Array, ""]) -> tuple[None, tuple[Array, ...]]:
        key_x, key_y = jr.split(jr.fold_in(key, number))
        x, y = draws[0](key_x), draws[1](key_y)
        x_in, y_in = jax.vmap(frame.x_in)(x), jax.vmap(frame.y_in)(y)
        images, to = found.transport(x), jax.vmap(found.inverse_in_frame)(y_in)
        value = _dual(frame, (x, jax.vmap(potential)(x_in)), (y, y_in, to), potential)
        back = jax.vmap(jax.grad(potential))(to) - y_in
        squares = [jnp.mean(jnp.sum(jnp.square(points), axis=1)) for points in (back, y_in)]
        energies = _between(images, y), _within(images), _within(y)
        return None, (value, *energies, *squares)

    numbers = jnp.arange(num_tests, dtype=jnp.int32)
    values, *means = scan(test, None, numbers)[1]
    between, within_x, within_y, back, spread = (jnp.mean(mean) for mean in means)
    energy = 2 * between - within_x - within_y
    # Images and target that are one point have nothing between them.
    bound = jnp.where(between > 0, 2 * between, 1)
    error = jnp.sqrt(jnp.maximum(energy, 0) / bound)
    error = jnp.where(jnp.isfinite(energy), error, jnp.nan)
    residual = jnp.sqrt(back / jnp.where(spread > 0, spread, 1))
    value_error = jnp.std(values, ddof=1) / jnp.sqrt(jnp.asarray(num_tests, values.dtype))
    return jnp.mean(values), value_error, error, residual


def _between(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    """The mean distance of two points."""
    return jnp.mean(pairwise(Euclidean(), x, y))


def _within(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """That of two points of one batch, which are not the same."""
    return jnp.sum(pairwise(Euclidean(), x, x)) / (len(x) * (len(x) - 1))
