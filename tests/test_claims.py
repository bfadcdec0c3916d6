import json
import math

import numpy as np
import pytest
import torch

from vaelib.course.claims import Claim, ClaimError, Claims, from_record


@pytest.fixture
def claims() -> Claims:
    return Claims(profile="quick")


@pytest.fixture
def check(claims):
    return claims.check


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
def test_a_value_within_the_bounds_passes(check, measured, bounds, capsys):
    check("the claim", measured, **bounds)
    assert capsys.readouterr().out == "✓ live: the claim\n"


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
def test_a_value_outside_the_bounds_fails_with_the_value(check, measured, bounds, needed, capsys):
    with pytest.raises(ClaimError, match="the claim does not hold: the claim") as error:
        check("the claim", measured, **bounds)
    assert str(error.value).endswith(f"measured {measured:.6g}, needed {needed}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bounds", [{"at_least": 0}, {"at_most": 0}, {"near": 0, "within": 9}])
def test_nan_fails(check, bounds):
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
def test_a_bound_that_is_nan_never_passes(check, bounds):
    with pytest.raises((ClaimError, ValueError)):
        check("the claim", 1.0, **bounds)


def test_the_printed_line_is_the_same_whatever_was_measured(check, capsys):
    check("it is small", 0.1234, at_most=1)
    check("it is small", 0.9876, at_most=2)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_claim_without_a_bound_is_an_error(check):
    with pytest.raises(ValueError, match="nothing to check for 'the claim'"):
        check("the claim", 1.0)


@pytest.mark.parametrize("bounds", [{"near": 1.0}, {"within": 1.0}])
def test_near_and_within_go_together(check, bounds):
    with pytest.raises(ValueError, match="near and within go together"):
        check("the claim", 1.0, **bounds)


def test_a_failed_claim_fails_a_test():
    assert issubclass(ClaimError, AssertionError)


def test_the_line_says_whose_numbers_they_are(check, capsys):
    check("the claim", 1.0, at_least=0, published=True)
    assert capsys.readouterr().out == "✓ published: the claim\n"


@pytest.mark.parametrize("published", [False, True])
def test_what_digits_cannot_carry_gets_another_mark_and_no_tick(claims, published, capsys):
    claims.check("the claim", -1.0, at_least=0, on_digits=False, published=published)
    kind = "published" if published else "live"
    assert capsys.readouterr().out == f"○ {kind}, not checked on digits: the claim\n"
    (claim,) = claims
    assert (claim.checked, claim.measured) == (False, -1)


def test_in_full_it_is_checked(capsys):
    full = Claims(profile="full")
    with pytest.raises(ClaimError):
        full.check("the claim", -1.0, at_least=0, on_digits=False)
    full.check("the claim", 1.0, at_least=0, on_digits=False)
    assert capsys.readouterr().out == "✓ live: the claim\n"


# Of 1, 2 and 3 the mean is 2 and its standard error 1 / sqrt(3): two of them are 1.1547.
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize(
    "bounds", [{"at_least": 0.845}, {"at_most": 3.155}, {"near": 2, "within": 1.155}]
)
def test_a_mean_that_clears_its_bound_by_two_standard_errors_passes(claims, kind, bounds):
    claims.check("the claim", kind([1.0, 2.0, 3.0]), **bounds)
    (claim,) = claims
    assert (claim.measured, claim.spread) == (2, 1)


@pytest.mark.parametrize(
    "bounds", [{"at_least": 0.846}, {"at_most": 3.154}, {"near": 2, "within": 1.154}]
)
def test_one_that_does_not_fails(check, bounds):
    with pytest.raises(ClaimError, match=r"measured 2, ± 1.15 for two standard errors, needed"):
        check("the claim", [1.0, 2.0, 3.0], **bounds)


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_what_is_no_sample_is_an_error(check, values):
    with pytest.raises(ValueError, match="expected one number, or one for each of two or more"):
        check("the claim", values, at_least=0)


def test_one_nan_of_a_sample_fails(check):
    with pytest.raises(ClaimError):
        check("the claim", [1.0, math.nan, 2.0], at_least=0)


@pytest.mark.parametrize("spread", [-1.0, math.nan, math.inf])
def test_a_spread_that_is_none_is_an_error(check, spread):
    with pytest.raises(ValueError, match="the spread of 'the claim'"):
        check("the claim", 1.0, at_least=0, spread=spread)


def test_a_sample_has_its_own_spread(check):
    with pytest.raises(ValueError, match="own spread"):
        check("the claim", [1.0, 2.0], at_least=0, spread=1.0)


def test_a_claim_that_failed_is_not_in_the_ledger(claims):
    with pytest.raises(ClaimError):
        claims.check("the claim", 1.0, at_least=2)
    assert list(claims) == []


def test_a_cell_that_runs_again_replaces_its_claim(claims):
    claims.check("the claim", 1.0, at_least=0)
    claims.check("another", 1.0, at_least=0)
    claims.check("the claim", 2.0, at_least=0)
    assert [(claim.sentence, claim.measured) for claim in claims] == [
        ("the claim", 2),
        ("another", 1),
    ]


@pytest.mark.parametrize(
    ("measured", "low", "high", "spread", "margin", "loose"),
    [
        (10.0, 6.0, math.inf, 1.0, 4, False),
        (10.0, 4.9, math.inf, 1.0, 5.1, True),  # more than five spreads
        (10.0, 5.1, math.inf, None, 4.9, False),
        (10.0, 4.9, math.inf, None, 5.1, True),  # more than half of the value
        (10.0, 4.9, math.inf, 2.0, 5.1, True),
        (-10.0, -math.inf, 0.0, 4.0, 10, True),
        (0.1, -0.2, 0.2, 0.1, 0.1, True),
        (10.0, 0.0, 11.0, 1.0, 1, False),  # the nearer bound counts
        (0.0, 0.0, 0.0, None, 0, False),
    ],
)
def test_a_loose_bound_is_found(measured, low, high, spread, margin, loose):
    claim = Claim("s", False, True, measured, low, high, spread)
    assert claim.margin == pytest.approx(margin)
    assert claim.is_loose == loose


def test_the_ledger_can_be_written_and_read(claims):
    claims.check("one", 1 / 3, at_least=0, loose="only the sign is claimed")
    claims.check("two", [1.0, 2.0, 3.0], near=2, within=1.5, published=True)
    claims.check("three", math.nan, at_most=1, on_digits=False)
    record = json.loads(json.dumps(claims.record(), allow_nan=False))
    assert record[0] == {
        "sentence": "one",
        "kind": "live",
        "checked": True,
        "measured": 0.333333,
        "at_least": 0,
        "at_most": None,
        "spread": None,
        "loose": "only the sign is claimed",
    }
    one, two, three = map(from_record, record)
    assert (one.low, one.high) == (0, math.inf)
    assert two == list(claims)[1]
    assert math.isnan(three.measured)
    assert not three.checked
