"""The reductions of point clouds as kernels for NVIDIA GPUs: nothing of size n x m is ever held.

Arrays of float32 in and out; no derivatives, whose rule is its caller's. On any device with
`interpret=True`, which is for tests.
"""

from ._apply import apply as apply
from ._device import run_here as run_here
from ._distances import squared_distances as squared_distances
from ._profile import DISTANCE as DISTANCE, Profile as Profile, SQUARED as SQUARED
from ._programs import Programs as Programs
from ._scale import MOST_POINTS as MOST_POINTS, scale as scale
from ._softmin import softmin as softmin
