"""The problems: point clouds with masses, synthetic and real, and the marginal error asked for."""

import gzip
import itertools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


# The L1 errors of the two marginals together, relative to the total mass.
TARGETS = {"float32": 1e-3, "float64": 1e-6}
SIZES = (1024, 4096, 256)
CLUSTERS_SIZES = (1024, 2048)
EPSILONS = (0.05, 0.01, 0.002, 0.0005)
REAL_EPSILONS = (0.01, 0.002)
BATCH = (256, 128)  # problems, points of each
BATCH_EPSILONS = (0.05, 0.01)


class Row(NamedTuple):
    """One line of the table; `epsilon` is in units of the mean cost."""

    data: str
    n: int
    d: int
    epsilon: float
    dtype: str

    @property
    def target(self) -> float:
        return TARGETS[self.dtype]

    @property
    def name(self) -> str:
        return f"{self.data}, n = {self.n}, d = {self.d}, epsilon = {self.epsilon}, {self.dtype}"

    @property
    def series(self) -> tuple[str, int, str]:
        """Rows of one series differ in size and epsilon only."""
        return self.data, self.d, self.dtype


class Problem(NamedTuple):
    """Points in the row's dtype, masses and epsilon; a batch has one more axis in front."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    epsilon: np.ndarray  # in units of the cost


class Clouds(NamedTuple):
    """Two weighted clouds, in float64."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray


class Sources(NamedTuple):
    """Where the real data are; what is absent is left out."""

    dotmark: pathlib.Path | None = None
    mnist: pathlib.Path | None = None
    shapes: pathlib.Path | None = None


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The costs in float64, centred first."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    centre = y.mean(0)
    x, y = x - centre, y - centre
    return np.sum(x**2, 1)[:, None] + np.sum(y**2, 1)[None, :] - 2 * x @ y.T


def mean_cost(clouds: Clouds) -> float:
    """The mean cost under the masses, without the matrix."""
    centre = clouds.b @ clouds.y
    x, y = clouds.x - centre, clouds.y - centre
    cross = (clouds.a @ x) @ (clouds.b @ y)
    return float(clouds.a @ np.sum(x**2, 1) + clouds.b @ np.sum(y**2, 1) - 2 * cross)


def problem_of(clouds: Clouds, epsilon: float, dtype: str) -> Problem:
    kind = np.dtype(dtype)
    # Rounded here, so that all contestants solve the problem that is checked.
    absolute = np.asarray(epsilon * mean_cost(clouds)).astype(kind).astype(np.float64)
    return Problem(clouds.x.astype(kind), clouds.y.astype(kind), clouds.a, clouds.b, absolute)


def load(row: Row, sources: Sources) -> Problem:
    """The problem of a row."""
    if row.data == "batch":
        problems = [
            problem_of(normal(row.n, row.d, seed), row.epsilon, row.dtype)
            for seed in range(BATCH[0])
        ]
        return Problem(*(np.stack(arrays) for arrays in zip(*problems, strict=True)))
    if row.data in SYNTHETIC:
        return problem_of(SYNTHETIC[row.data](row.n, row.d), row.epsilon, row.dtype)
    return problem_of(REAL[row.data](sources), row.epsilon, row.dtype)


def uniform(x: np.ndarray, y: np.ndarray) -> Clouds:
    return Clouds(x, y, np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y)))


def normal(n: int, d: int, seed: int = 0) -> Clouds:
    """N(0, I) against N(1, I / 4)."""
    rng = np.random.default_rng(seed)
    return uniform(rng.normal(size=(n, d)), 1 + 0.5 * rng.normal(size=(n, d)))


def clusters(n: int, d: int) -> Clouds:
    """Two mixtures of Gaussians of spread 0.3, of 4 and of 5 components: mass has to go from each
    cluster to some others. The centres are those of the dimension, the points those of the size."""
    centres, points = np.random.default_rng((1, d)), np.random.default_rng((2, n, d))

    def mixture(components: int) -> np.ndarray:
        means = 2 * centres.normal(size=(components, d))
        return means[points.integers(components, size=n)] + 0.3 * points.normal(size=(n, d))

    return uniform(mixture(4), mixture(5))


SYNTHETIC: dict[str, Callable[[int, int], Clouds]] = {"normal": normal, "clusters": clusters}


def digits(sources: Sources) -> Clouds:
    """scikit-learn's digits, one half against the other."""
    from sklearn.datasets import load_digits

    images = np.asarray(load_digits(return_X_y=True)[0], np.float64) / 16
    half = len(images) // 2
    return uniform(images[:half], images[half : 2 * half])


def mnist(sources: Sources) -> Clouds:
    """A thousand images of MNIST against the next thousand."""
    assert sources.mnist is not None
    path = sources.mnist
    path = path / "t10k-images-idx3-ubyte.gz" if path.is_dir() else path
    images = np.frombuffer(gzip.open(path).read(), np.uint8)[16:].reshape(-1, 784) / 255.0
    return uniform(images[:1000], images[1000:2000])


def shapes(sources: Sources) -> Clouds:
    """Vertices of the bunny against vertices of spot, each shape of mean 0 and mean square 1."""
    assert sources.shapes is not None
    rng = np.random.default_rng(0)
    clouds = []
    for name in ("stanford-bunny.obj", "spot.obj"):
        lines = (sources.shapes / name).read_text().splitlines()
        vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float)
        vertices = vertices[rng.choice(len(vertices), 2048, replace=False)]
        vertices -= vertices.mean(0)
        clouds.append(vertices / np.sqrt(np.mean(np.sum(vertices**2, 1))))
    return uniform(*clouds)


def dotmark(size: int) -> Callable[[Sources], Clouds]:
    """Two images as histograms on the grid of their pixels, in the unit square."""

    def clouds(sources: Sources) -> Clouds:
        assert sources.dotmark is not None
        one, two = (image(path, size) for path in dotmark_files(sources.dotmark, size))
        centres = (np.arange(size) + 0.5) / size
        grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2)
        # Pixels without mass take no part.
        return Clouds(grid[one > 0], grid[two > 0], one[one > 0], two[two > 0])

    return clouds


def dotmark_files(folder: pathlib.Path, size: int) -> list[pathlib.Path]:
    """Two histograms of that size, or two pictures to make them of."""
    files = sorted(folder.glob(f"data{size}_*.csv"))[:2]
    return files if len(files) == 2 else sorted(folder.glob("*512_*.png"))[-2:]


def image(path: pathlib.Path, size: int) -> np.ndarray:
    """The histogram of an image, of total mass 1; a picture is reduced by block means."""
    if path.suffix == ".csv":
        masses = np.loadtxt(path, delimiter=",")
    else:
        import matplotlib.image

        picture: Any = matplotlib.image.imread(path)
        picture = picture[..., 0] if picture.ndim == 3 else picture
        block = len(picture) // size
        masses = picture.astype(np.float64).reshape(size, block, size, block).mean((1, 3))
    return masses.ravel() / masses.sum()


REAL: dict[str, Callable[[Sources], Clouds]] = {
    "DOTmark 32": dotmark(32),
    "digits": digits,
    "MNIST": mnist,
    "bunny to spot": shapes,
    "DOTmark 64": dotmark(64),
}


def available(sources: Sources) -> list[str]:
    """The real data at hand."""
    found = []
    for size in (32, 64):
        if sources.dotmark is not None and len(dotmark_files(sources.dotmark, size)) == 2:
            found.append(f"DOTmark {size}")
    if importable("sklearn"):
        found.append("digits")
    found += ["MNIST"] * (sources.mnist is not None)
    found += ["bunny to spot"] * (sources.shapes is not None)
    return [name for name in REAL if name in found]


def importable(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def rows(sources: Sources, sizes: tuple[int, ...] = ()) -> list[Row]:
    """Every row, the most telling first; `sizes` are those of the synthetic problems, if others
    than the usual ones."""

    def synthetic(data: str, n: int) -> list[Row]:
        return [
            Row(data, n, d, epsilon, dtype)
            for d in (2, 64)
            for epsilon in EPSILONS
            for dtype in TARGETS
        ]

    def real(name: str) -> list[Row]:
        clouds = REAL[name](sources)
        return [
            Row(name, len(clouds.x), clouds.x.shape[1], epsilon, dtype)
            for epsilon in REAL_EPSILONS
            for dtype in TARGETS
        ]

    batches = [
        Row("batch", BATCH[1], 2, epsilon, dtype) for epsilon in BATCH_EPSILONS for dtype in TARGETS
    ]
    real_rows = [row for name in available(sources) for row in real(name)]
    first, *others = (synthetic("normal", n) for n in sizes or SIZES)
    *others, last = others or [[]]
    mixtures = itertools.chain(*(synthetic("clusters", n) for n in sizes or CLUSTERS_SIZES))
    return [*first, *batches, *mixtures, *itertools.chain(*others), *real_rows, *last]
