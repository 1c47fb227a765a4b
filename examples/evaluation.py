"""How good generated images are: distances to real ones that training never saw."""

import warnings
from typing import NamedTuple

import numpy as np
import ot
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances
from sklearn.neural_network import MLPClassifier

import otjax


MOST_POINTS = 2000  # of each cloud that a distance is computed between
NEIGHBOURS = 3  # as Kynkäänniemi et al. have it
PRESENT = 0.01  # the least share of samples with which a class counts as present


class Classifier(NamedTuple):
    """A small network fitted to the real training images; its hidden layer gives features."""

    model: MLPClassifier

    def features(self, images: np.ndarray) -> np.ndarray:
        hidden = vectors(images) @ self.model.coefs_[0] + self.model.intercepts_[0]
        return np.maximum(hidden, 0)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.model.predict(vectors(images))

    def shares(self, images: np.ndarray) -> np.ndarray:
        """How often each class is predicted."""
        return (self.predict(images)[:, None] == self.model.classes_).mean(axis=0)


def vectors(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def fit_classifier(images: np.ndarray, labels: np.ndarray) -> Classifier:
    model = MLPClassifier((64,), early_stopping=True, max_iter=100, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough after `max_iter`
        return Classifier(model.fit(vectors(images), labels))


def fitted_gaussian(images: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Samples of the Gaussian with the mean and covariance of the images, clipped to [0, 1]."""
    points = vectors(images).astype(np.float64)
    rng = np.random.default_rng(seed)
    # The centred data as a square root of the covariance: no decomposition in many pixels.
    root = (points - points.mean(axis=0)) / np.sqrt(len(points) - 1)
    samples = points.mean(axis=0) + rng.normal(size=(num, len(points))) @ root
    return samples.clip(0, 1).reshape(num, *images.shape[1:]).astype(np.float32)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The squared W2 distance of the Gaussians fitted to two clouds of features (Dowson and Landau
    1982; Heusel et al. 2017, arXiv:1706.08500)."""
    covariances = [np.cov(cloud.T.astype(np.float64)) for cloud in (x, y)]
    root = _square_root(covariances[0])
    cross = _square_root(root @ covariances[1] @ root)
    means = np.sum((x.mean(axis=0, dtype=float) - y.mean(axis=0, dtype=float)) ** 2)
    return float(means + np.trace(covariances[0] + covariances[1] - 2 * cross))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(values.clip(0))) @ axes.T


def precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The share of fake points among the real ones, and of real points among the fake ones.

    A point is among others if it lies within the distance of one of them to its third nearest
    neighbour (Kynkäänniemi et al. 2019, arXiv:1904.06991). Of the larger cloud the first part is
    taken, so that both count alike.
    """
    num = min(len(real), len(fake))
    return _among(fake[:num], real[:num]), _among(real[:num], fake[:num])


def _among(points: np.ndarray, others: np.ndarray) -> float:
    rank = min(NEIGHBOURS, len(others) - 1)  # each point is its own nearest neighbour, of rank 0
    radii = np.partition(pairwise_distances(others), rank, axis=1)[:, rank]
    return float((pairwise_distances(points, others) <= radii).any(axis=1).mean())


def proven_w2(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The squared W2 distance of two clouds of points to within a hundredth, and a lower bound."""
    cloud = otjax.PointCloud(x.astype(np.float32), y.astype(np.float32))
    solution = otjax.solve_exact(cloud, gap=1e-2, throw=False)
    return {"W2^2": float(solution.upper), "at least": float(solution.lower)}


def exact_w2(x: np.ndarray, y: np.ndarray) -> float:
    """The squared W2 distance of two clouds of points, by linear programming: in the plane, where
    it is a thousandth of the mean cost, that is faster than proving it at falling epsilons."""
    distances = ot.dist(x.astype(np.float64), y.astype(np.float64), metric="sqeuclidean")
    # Masses left empty are uniform.
    return float(ot.emd2([], [], distances, numItermax=1_000_000))


def evaluate(
    images: np.ndarray, test: np.ndarray, classifier: Classifier | None
) -> dict[str, float]:
    """The squared W2 distance in pixels, with its proof, and statistics of features, which are
    pixels where there is no classifier."""
    images, test = images[:MOST_POINTS], test[:MOST_POINTS]
    features = classifier.features if classifier else vectors
    precision, recall = precision_recall(features(test), features(images))
    row = {
        **proven_w2(vectors(images), vectors(test)),
        "Frechet": frechet_distance(features(images), features(test)),
        "precision": precision,
        "recall": recall,
        "variance": float(vectors(images).var(axis=0, dtype=float).sum()),
    }
    if classifier:
        row["classes"] = float((classifier.shares(images) >= PRESENT).sum())
    return row


def print_table(table: dict[str, dict[str, float]]) -> None:
    names = next(iter(table.values()))
    print(f"{'':22}" + "".join(f"{name:>13}" for name in names))
    for title, row in table.items():
        print(f"{title:22}" + "".join(f"{value:13.4g}" for value in row.values()))
