"""What the scripts that train generators share: the loop, checkpoints, images, pictures."""

import contextlib
import dataclasses
import gzip
import json
import math
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from otjax.gan import Trainer, TrainState


# What may differ between the run that wrote a checkpoint and the one that resumes it.
FREE_TO_CHANGE = {"output", "checkpoint_interval", "resume", "stop_after"}
FETCH_INTERVAL = 10  # steps between looks at the metrics, which would hold a device up
SPLIT_SEED, TEST_SHARE = 0, 0.25  # the split is the same for every seed of a run
TITLES = {  # of the metrics' curves
    "divergence": "Sinkhorn divergence of the batches",
    "generator_loss": "loss of the generator",
    "gradient_norm": "slope of the critic, mean",
    "jensen_shannon": "Jensen-Shannon divergence, estimate",
    "penalty": "gradient penalty, unweighted",
    "solver_steps": "steps of the solver",
    "unconverged": "solves that did not converge, of three",
    "w1": "W1, estimate of the critic",
}
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What every training run has."""

    steps: int = 1000  # generator steps, spanned by the schedules
    batch: int = 256  # samples in each step of critic or generator
    seed: int = 0  # of the weights and the noise
    checkpoint_interval: int = 500  # steps between checkpoints
    resume: bool = False  # go on from the checkpoint in the output directory
    stop_after: int | None = None  # stop after this step, as an interruption would


class CodedNoise(eqx.Module):
    """A latent vector: Gaussian noise, and a random one-hot code joined to it, which lets a
    continuous generator put its samples into separate kinds."""

    gaussian: int
    components: int

    def __call__(self, key: Array) -> Float[Array, " size"]:
        key_gaussian, key_code = jr.split(key)
        code = jax.nn.one_hot(jr.randint(key_code, (), 0, self.components), self.components)
        # The factor sets the components apart by more than the Gaussian spreads them.
        return jnp.concatenate([jr.normal(key_gaussian, (self.gaussian,)), 3 * code])


class Progress(NamedTuple):
    """All that is saved and resumed."""

    state: TrainState
    curves: np.ndarray  # shape (steps, len(names)): NaN where not yet trained


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def run_script(main: Callable[[Any], None], config: type) -> None:
    """Runs `main` with the options of the command line; Ctrl-C ends it with one line."""
    try:
        main(tyro.cli(config))
    except KeyboardInterrupt as end:
        print(end if end.args else "\ninterrupted.", file=sys.stderr)
        raise SystemExit(130) from None  # as shells have it for what was interrupted


def check_options(options: Options) -> None:
    """Ends with exit code 2 and a message that names the first number out of range."""
    for name, value in dataclasses.asdict(options).items():
        if type(value) in (int, float) and name != "seed" and not 0 < value < math.inf:
            fail(f"--{name.replace('_', '-')} must be positive and finite, got {value}.")
    check_seed(options.seed)
    if options.stop_after is not None and options.stop_after > options.steps:
        fail(f"--stop-after must be at most --steps={options.steps}, got {options.stop_after}.")


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        fail(f"--seed must be from 0 to 2^32 - 1, got {seed}.")


def make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--output is no directory to write to: {error}.")


def report_device() -> None:
    precision = jnp.result_type(float)
    device = jax.devices()[0].device_kind
    print(f"device: {device} ({jax.default_backend()}); precision: {precision}", flush=True)


def start(
    options: Options, path: Path | None, names: tuple[str, ...], make: Callable[[], TrainState]
) -> Progress:
    """The run saved at `path`, or a new one where that is None."""
    curves = np.full((options.steps, len(names)), np.nan, np.float32)
    if path is None:
        return Progress(make(), curves)
    if not path.exists():
        fail(f"--resume: there is no checkpoint at {path}; run once without --resume.")
    try:
        with path.open("rb") as file:
            saved = json.loads(file.readline())
            for name, value in _plain(options).items():
                if name not in FREE_TO_CHANGE and saved[name] != value:
                    fail(f"--resume: {path} was made with {name}={saved[name]}, not {value}.")
            like = Progress(eqx.filter_eval_shape(make), curves)
            return eqx.tree_deserialise_leaves(file, like)
    except (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(f"--resume: {path} is not a checkpoint of this script ({error}).")


def _plain(options: Options) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


def save(path: Path, options: Options, progress: Progress) -> None:
    """A line of options, then the leaves; renamed into place, so that no half file is ever left."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(json.dumps(_plain(options)).encode() + b"\n")
        eqx.tree_serialise_leaves(file, progress)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Within it Ctrl-C is noted, so that a step can end; a second one does not wait for that."""
    noted = []

    def note(number: int, _: Any) -> None:
        noted.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    options: Options,
    trainer_at: Callable[[int], Trainer],
    progress: Progress,
    data: Any,
    path: Path,
    names: tuple[str, ...],
) -> Progress:
    """Trains to the end or to `stop_after`, with checkpoints at `path`, one of them at Ctrl-C.

    `trainer_at` gives the trainer of a step; `names` are the metrics to keep as curves, the first
    of which the progress bar shows too.
    """
    state, curves = progress
    stop, saved, pending = options.stop_after or options.steps, int(state.step), []
    bar = tqdm(initial=saved, total=options.steps, unit="step", desc=path.parent.name)
    with noted_interrupts() as interrupts, bar:
        for step in range(saved + 1, stop + 1):
            state, metrics = trainer_at(step - 1).step(state, data)
            pending.append(metrics)
            at_end = step == stop or bool(interrupts)
            at_checkpoint = step % options.checkpoint_interval == 0 or at_end
            if not (at_checkpoint or step % FETCH_INTERVAL == 0):
                continue
            for number, row in enumerate(jax.device_get(pending), step - len(pending) + 1):
                if not row["finite"]:
                    raise SystemExit(
                        f"error: the losses or the weights became non-finite in step {number}; the "
                        f"last checkpoint is that of step {saved or 'none'}. Lower the learning "
                        "rates."
                    )
                curves[number - 1] = [row[name] for name in names]
            bar.set_postfix({names[0]: f"{curves[step - 1, 0]:.4g}"}, refresh=False)
            bar.update(len(pending))
            pending = []
            if at_checkpoint:
                save(path, options, Progress(state, curves))
                saved = step
            if at_end:
                break
    if interrupts:
        raise KeyboardInterrupt(
            f"{path.parent.name}: stopped after step {saved} of {options.steps}; --resume goes on."
        )
    return Progress(state, curves)


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, the format of MNIST; `.gz` files are unpacked on the way."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        fail(f"--data: {path} cannot be read: {error}.")
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        fail(f"--data: {path} is not an IDX file, such as those of MNIST.")
    dtype, start = np.dtype(IDX_TYPES[content[2]]), 4 + 4 * content[3]
    shape = [int.from_bytes(content[place : place + 4]) for place in range(4, start, 4)]
    expected = start + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        fail(f"--data: {path} is damaged: {len(content)} bytes, where it announces {expected}.")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


class Images(NamedTuple):
    """Images with pixels in [0, 1] and shape (n, channels, height, width), and their labels."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None


def load_images(data: str) -> Images:
    """The digits of scikit-learn, or an IDX file of images; labels if a file beside it has them."""
    if data == "digits":
        digits = load_digits()
        return _split((digits.images / 16)[:, None], digits.target)
    path = Path(data)
    pixels = read_idx(path)
    if pixels.ndim not in (3, 4) or pixels.size == 0 or min(pixels.shape[-2:]) < 2:
        fail(f"--data: {path} must hold images, of shape (n, height, width), got {pixels.shape}.")
    if pixels.dtype.kind == "f" and not (np.isfinite(pixels).all() and 0 <= pixels.min()):
        fail(f"--data: {path} holds pixels that are NaN, infinite or negative.")
    brightest = float(pixels.max())
    if not 0 <= float(pixels.min()) < brightest:
        fail(f"--data: the pixels of {path} must be from 0 upwards, and not all the same.")
    images = pixels / brightest
    return _split(images[:, None] if images.ndim == 3 else images, _labels(path, len(images)))


def _labels(path: Path, num: int) -> np.ndarray | None:
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside == path or not beside.exists():
        return None
    labels = read_idx(beside)
    if labels.shape != (num,) or labels.dtype.kind == "f":
        fail(f"--data: {beside} must hold {num} whole numbers, got {labels.shape}, {labels.dtype}.")
    return labels


def _split(images: np.ndarray, labels: np.ndarray | None) -> Images:
    if len(images) < 5:
        fail(
            f"--data must hold five images at least, to train and to test with, got {len(images)}."
        )
    places = np.arange(len(images))
    train, test = train_test_split(places, test_size=TEST_SHARE, random_state=SPLIT_SEED)
    images = images.astype(np.float32)
    if labels is None:
        return Images(images[train], images[test], None, None)
    return Images(images[train], images[test], labels[train], labels[test])


def draw_images(panels: dict[str, np.ndarray], path: Path, rows: int = 10) -> None:
    """Grids of images side by side, each with its title."""
    figure = Figure(figsize=(4.5 * len(panels), 4.8), layout="tight")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, images) in zip(axes, panels.items(), strict=True):
        images = images[: rows**2].mean(axis=1)
        tiles = np.ones((rows**2, *(side + 2 for side in images.shape[1:]))) * 0.5
        tiles[: len(images), 1:-1, 1:-1] = images
        _, height, width = tiles.shape
        grid = tiles.reshape(rows, rows, height, width).transpose(0, 2, 1, 3)
        axis.imshow(grid.reshape(rows * height, -1), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=120)


def draw_curves(curves: np.ndarray, names: tuple[str, ...], path: Path) -> None:
    """One panel for each metric, over the generator's steps: each step pale, their mean dark."""
    figure = Figure(figsize=(4.5 * len(names), 3.2), layout="tight")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    window = max(len(curves) // 50, 1)
    for axis, name, curve in zip(axes, names, curves.T, strict=True):
        axis.plot(np.arange(1, len(curve) + 1), curve, linewidth=0.6, alpha=0.4)
        mean = np.convolve(curve, np.full(window, 1 / window), mode="valid")
        axis.plot(np.arange(len(mean)) + (window + 1) / 2, mean, color="black", linewidth=1)
        axis.set(xlabel="generator step", title=TITLES.get(name, name))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
