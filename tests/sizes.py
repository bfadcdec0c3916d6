"""How many parameters a network has, by arithmetic."""

from itertools import pairwise


def mlp_parameters(*networks: list[int]) -> int:
    return sum(a * b + b for widths in networks for a, b in pairwise(widths))


def conv_parameters(channels: list[int]) -> int:
    return sum((9 * a + 1) * b for a, b in pairwise(channels))
