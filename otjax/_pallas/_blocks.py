"""The sizes that kernels work in. All are powers of two, as Triton wants of every array.

For `softmin` and for `apply` to one vector they come, in 3 and in 64 dimensions, from measurements
of a prototype of these kernels on an NVIDIA H200. The others were chosen by the registers and
instructions that the compiler reports for that card, and are not measured.
`benchmarks/pallas_kernels.py` measures them and their neighbours. A program is kept within 96 KiB
of shared memory, which consumer cards have, too.
"""

import dataclasses

from ._profile import Profile


# Up to this many coordinates distances are sums of squared differences, on the vector units, each
# coordinate a vector of its own; above, they come from matrix products.
DIFFERENCES_UP_TO = 8
# Up to this many columns are summed on the vector units, each a vector of its own.
VECTORS_UP_TO = 8
# Up to this many coordinates are one matrix product; more are cut into blocks.
ONE_PRODUCT_UP_TO = 64
# The least size of a matrix product, and the most columns that one program sums.
LEAST, MOST_WIDTH = 16, 160


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How much of the n x m matrix one program works on at a time."""

    rows: int  # of one program
    columns: int  # of one step
    unroll: int = 1  # steps in one round of the loop
    inner: int = 32  # coordinates of one matrix product, where there are many
    warps: int = 4
    stages: int = 2  # of software pipelining


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that is static in a kernel."""

    profile: Profile
    blocks: Blocks
    interpret: bool = False


def softmin_blocks(d: int, m: int) -> Blocks:
    """Blocks for `softmin` over `m` columns in dimension `d`."""
    if d <= DIFFERENCES_UP_TO:
        # A thread has a column and all rows, with a running maximum of its own for each: a longer
        # round rescales the running sums less often.
        return Blocks(rows=8, columns=128, unroll=_rounds(m, 4))
    return _blocks_of_products(d)


def apply_blocks(d: int, m: int, k: int) -> Blocks:
    """Blocks for `apply` of `m` columns to `k` vectors in dimension `d`."""
    if k > VECTORS_UP_TO:
        # 64 rows are what four warps multiply together, and 160 sums of each what they have
        # registers for. The three parts of 32 columns take 192 bytes per vector, in each stage.
        return Blocks(rows=64, columns=32, stages=2 if sum(widths(k)[0]) <= 96 else 1)
    if d <= DIFFERENCES_UP_TO:
        # Each coordinate and each vector takes a register per row of every thread.
        rows = 16 if k == 1 and d <= 4 else 8
        return Blocks(rows=rows, columns=128, unroll=_rounds(m, 2))
    return _blocks_of_products(d)


def _blocks_of_products(d: int) -> Blocks:
    if d <= ONE_PRODUCT_UP_TO:
        return Blocks(rows=64, columns=64)
    return Blocks(rows=128, columns=64, warps=8)


def _rounds(m: int, most: int) -> int:
    """How often to unroll: a power of two, that few columns need no padding to a long round."""
    return min(most, power_of_two(-(-m // 128)))


def padded_dimension(d: int, blocks: Blocks) -> int:
    """The number of coordinates with those of value zero that fill up the last product."""
    if d <= ONE_PRODUCT_UP_TO:
        return max(LEAST, power_of_two(d))
    return round_up(d, blocks.inner)


def widths(k: int) -> tuple[tuple[int, ...], int]:
    """`k` columns as chunks of one or two matrices: their widths, and the number of chunks.

    The scores are computed once for each chunk. d + 2 columns would be a poor power of two.
    """
    chunks = -(-k // MOST_WIDTH)
    each = -(-k // chunks)
    first = max(LEAST, power_of_two(each + 1) // 2)
    if each <= first:
        return (first,), chunks
    second = max(LEAST, power_of_two(each - first))
    return ((first, second) if second < first else (2 * first,)), chunks


def power_of_two(size: int) -> int:
    """The least power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


def round_up(size: int, block: int) -> int:
    """The least multiple of `block` that is at least `size`."""
    return -(-size // block) * block
