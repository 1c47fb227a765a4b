"""What tests/test_devices.py runs in two processes, each with some of the devices of one mesh."""

import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from on_devices import close, clouds, outputs

import otjax


ENGINES = {"dense": otjax.Dense(), "streamed": otjax.Streamed(block=8)}


def main(port: str, index: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(index))
    assert (jax.process_count(), len(jax.local_devices()), len(jax.devices())) == (2, 8, 16)
    mesh = jax.make_mesh((16,), ("i",), axis_types=(AxisType.Auto,))
    given = jax.tree.map(np.asarray, clouds(96, 64))
    spread = jax.device_put(given, NamedSharding(mesh, P("i")))
    assert not spread[0].is_fully_addressable
    for engine in ENGINES.values():
        found = multihost_utils.process_allgather(jax.jit(outputs(engine))(*spread), tiled=True)
        close(found, jax.jit(outputs(engine))(*given))
    print("the numbers of one process")


if __name__ == "__main__":
    main(*sys.argv[1:])
