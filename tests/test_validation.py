import math

import pytest
import torch

from vaelib.validation import check_count, kind_of


def test_a_count_is_a_whole_number_of_at_least_1():
    for count in (1, 2, 10**9):
        check_count("dogs", count)
    for bad in (0, -3, 1.0, math.nan, True, False, None, "2"):
        with pytest.raises(ValueError, match=f"dogs is {bad!r}; expected a whole number, at lea"):
            check_count("dogs", bad)


def test_a_value_is_named_by_what_it_is():
    assert kind_of(torch.zeros(2)) == "torch.float32"
    assert kind_of([1, 2]) == "a list"
