"""Two photographs exchange their colours, by the two maps of one plan.

    python examples/gallery/colours.py    # draws colours.png

A photograph is a cloud of colours; the plan between two clouds sends each colour to a mean of those
of the other. `examples/color_transfer.py` does so with all pixels of both.
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import otjax


rng = np.random.default_rng(0)
images = [
    load_sample_image(name)[::3, ::3] / np.float32(255) for name in ("china.jpg", "flower.jpg")
]
pixels = [image.reshape(-1, 3) for image in images]
some = [rng.choice(cloud, 1500, replace=False) for cloud in pixels]
solution = otjax.solve(
    otjax.EntropicProblem(otjax.PointCloud(*some), epsilon=0.003), tolerance=1e-2
)
# The maps go through any points, so that a part of the pixels is enough for the plan.
new = [
    np.clip(one.transport(cloud), 0, 1).reshape(image.shape)
    for one, cloud, image in zip((solution, solution.T), pixels, images, strict=True)
]
before, after = (
    np.linalg.norm(first.mean(axis=(0, 1)) - images[1].mean(axis=(0, 1)))
    for first in (images[0], new[0])
)
print(f"distance of the mean colours: {before:.3f} before, {after:.3f} after")

figure = Figure(figsize=(8, 5.6), layout="tight")
titles = "first", "second", "first, colours of the second", "second, colours of the first"
for ax, title, image in zip(figure.subplots(2, 2).flat, titles, images + new, strict=True):
    ax.imshow(image)
    ax.set_title(title)
    ax.axis("off")
figure.savefig("colours.png", dpi=42)
