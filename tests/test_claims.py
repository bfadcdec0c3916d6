import math

import pytest
import torch

from vaelib.course.claims import ClaimError, check


@pytest.mark.parametrize(
    ("measured", "bounds"),
    [
        (2.0, {"at_least": 2}),
        (2.0, {"at_most": 2}),
        (2.0, {"at_least": 2, "at_most": 2}),
        (1.5, {"near": 2, "within": 0.5}),
        (2.5, {"near": 2, "within": 0.5}),
        (2.5, {"near": 2, "within": 1, "at_least": 2.5}),
        (math.inf, {"at_least": 0}),
        (torch.tensor(2.0), {"near": 2, "within": 0}),
    ],
)
def test_a_value_within_the_bounds_passes(measured, bounds, capsys):
    check("the claim", measured, **bounds)
    assert capsys.readouterr().out == "✓ the claim\n"


@pytest.mark.parametrize(
    ("measured", "bounds", "needed"),
    [
        (1.999, {"at_least": 2}, "at least 2"),
        (2.001, {"at_most": 2}, "at most 2"),
        (3.0, {"at_least": 1, "at_most": 2}, "1 to 2"),
        (1.499, {"near": 2, "within": 0.5}, "1.5 to 2.5"),
        (2.501, {"near": 2, "within": 0.5}, "1.5 to 2.5"),
        (2.4, {"near": 2, "within": 1, "at_least": 2.5}, "2.5 to 3"),
        (1.6, {"near": 2, "within": 1, "at_most": 1.5}, "1 to 1.5"),
        (math.inf, {"at_most": 1}, "at most 1"),
    ],
)
def test_a_value_outside_the_bounds_fails_with_the_value(measured, bounds, needed, capsys):
    with pytest.raises(ClaimError, match="the claim does not hold: the claim") as error:
        check("the claim", measured, **bounds)
    assert str(error.value).endswith(f"measured {measured:.6g}, needed {needed}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bounds", [{"at_least": 0}, {"at_most": 0}, {"near": 0, "within": 9}])
def test_nan_fails(bounds):
    with pytest.raises(ClaimError, match="measured nan"):
        check("the claim", math.nan, **bounds)


@pytest.mark.parametrize(
    "bounds",
    [
        {"at_least": math.nan},
        {"at_most": math.nan},
        {"near": math.nan, "within": 1},
        {"near": math.nan, "within": 1, "at_least": 0},
        {"near": 1, "within": math.nan, "at_most": 2},
    ],
)
def test_a_bound_that_is_nan_never_passes(bounds):
    with pytest.raises((ClaimError, ValueError)):
        check("the claim", 1.0, **bounds)


def test_the_printed_line_is_the_same_whatever_was_measured(capsys):
    check("small", 0.1234, at_most=1)
    check("small", 0.9876, at_most=2)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_claim_without_a_bound_is_an_error():
    with pytest.raises(ValueError, match="nothing to check for 'the claim'"):
        check("the claim", 1.0)


@pytest.mark.parametrize("bounds", [{"near": 1.0}, {"within": 1.0}])
def test_near_and_within_go_together(bounds):
    with pytest.raises(ValueError, match="near and within go together"):
        check("the claim", 1.0, **bounds)


def test_a_failed_claim_fails_a_test():
    assert issubclass(ClaimError, AssertionError)
