"""Normalisation of one sample by itself."""

import math

import equinox as eqx


def group_norm(channels: int) -> eqx.nn.GroupNorm:
    """Over groups of channels, eight of them where that comes out even."""
    return eqx.nn.GroupNorm(math.gcd(8, channels), channels)
