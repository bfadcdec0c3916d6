import math

import numpy as np
import pytest

from vaelib.schedules import constant, cosine, cyclical, linear, warmup_cosine

STEPS = np.linspace(0, 1, 1001)


def values(schedule) -> np.ndarray:
    return np.array([schedule(progress) for progress in STEPS])


def test_constant_stays():
    assert set(values(constant(0.25))) == {0.25}


@pytest.mark.parametrize(
    ("progress", "value"),
    [(0, 3.0), (1 / 3, 2.5), (0.5, 2.0), (2 / 3, 1.5), (1, 1.0)],
)
def test_cosine_falls_along_half_a_cosine(progress, value):
    assert cosine(3.0, end=1.0)(progress) == pytest.approx(value)


def test_cosine_ends_at_zero_by_default():
    assert cosine(3.0)(1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "value"),
    [(0, 0.1), (0.1, 0.55), (0.2, 1.0), (0.6, 0.5), (1, 0.0)],
)
def test_warmup_cosine_rises_and_falls(progress, value):
    schedule = warmup_cosine(1.0, warmup=0.2, start=0.1)
    assert schedule(progress) == pytest.approx(value, abs=1e-12)


def test_warmup_cosine_peaks_after_a_tenth_by_default():
    assert STEPS[values(warmup_cosine(2.0)).argmax()] == pytest.approx(0.1)
    assert warmup_cosine(2.0)(0) == 0


def test_warmup_cosine_without_warm_up_is_the_cosine():
    np.testing.assert_allclose(values(warmup_cosine(2.0, warmup=0)), values(cosine(2.0)))


@pytest.mark.parametrize(
    ("progress", "value"), [(0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.75, 3.0), (1, 3.0)]
)
def test_linear_moves_and_stays(progress, value):
    assert linear(1.0, 3.0, over=0.5)(progress) == pytest.approx(value)


def test_linear_takes_the_whole_training_by_default():
    np.testing.assert_allclose(values(linear(2.0, -1.0)), 2 - 3 * STEPS)


def test_linear_over_nothing_is_constant():
    assert set(values(linear(0, 4, over=0))) == {4.0}


@pytest.mark.parametrize(
    ("progress", "value"),
    [(0, 0.0), (1 / 8, 2.0), (1 / 4, 4.0), (7 / 16, 4.0), (1 / 2, 0.0), (5 / 8, 2.0), (7 / 8, 4.0)],
)
def test_cyclical_rises_and_stays_in_every_cycle(progress, value):
    assert cyclical(4.0, cycles=2, rise=0.5)(progress) == pytest.approx(value)


@pytest.mark.parametrize(
    ("options", "cycles", "rise"),
    [({}, 4, 0.5), ({"cycles": 5}, 5, 0.5), ({"rise": 0.3}, 4, 0.3), ({"rise": 1}, 4, 1.0)],
    ids=["default", "five-cycles", "short-rise", "saw-tooth"],
)
def test_cyclical_is_the_schedule_of_fu_et_al(options, cycles, rise):
    # As written there: steps t from 1 to T, M cycles, and the share R of a cycle for the rise.
    steps, schedule = 1000, cyclical(2.0, **options)
    for t in range(1, steps + 1):
        tau = ((t - 1) % math.ceil(steps / cycles)) / (steps / cycles)
        value = 2.0 * (tau / rise if tau <= rise else 1.0)
        assert schedule((t - 1) / steps) == pytest.approx(value, abs=1e-9)


def test_warmup_cosine_of_the_cyclical_is_the_linear_rise():
    before_the_end = STEPS[:-1]
    once, rise = cyclical(3.0, cycles=1, rise=0.4), linear(0.0, 3.0, over=0.4)
    assert [once(p) for p in before_the_end] == [rise(p) for p in before_the_end]


def test_cyclical_without_a_rise_is_constant():
    assert set(values(cyclical(4, rise=0))) == {4.0}


@pytest.mark.parametrize(
    ("schedule", "slope"),
    [
        (cosine(1.0), math.pi / 2),
        (linear(0.0, 1.0, over=0.3), 1 / 0.3),
        (warmup_cosine(1.0, warmup=0.1), 10),
        (warmup_cosine(1.0, warmup=0.37, start=0.5), math.pi / 2 / 0.63),
    ],
)
def test_schedules_are_continuous(schedule, slope):
    assert np.abs(np.diff(values(schedule))).max() <= slope * 0.001 + 1e-9


@pytest.mark.parametrize(
    "schedule", [cosine(1.0), warmup_cosine(1.0), linear(0, 1, over=0.5), cyclical(1.0)]
)
def test_schedules_are_pure(schedule):
    backwards = [schedule(progress) for progress in STEPS[::-1]]
    assert values(schedule).tolist() == backwards[::-1]


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 1.5, math.nan])
def test_a_bad_warm_up_is_named(warmup):
    with pytest.raises(ValueError, match=f"warmup is {warmup}; expected a share"):
        warmup_cosine(1.0, warmup=warmup)


@pytest.mark.parametrize("over", [-0.1, 1.1, math.nan])
def test_a_bad_share_is_named(over):
    with pytest.raises(ValueError, match=f"over is {over}; expected a share"):
        linear(0.0, 1.0, over=over)


@pytest.mark.parametrize("cycles", [0, -2, 1.5, "3", None])
def test_a_bad_number_of_cycles_is_named(cycles):
    with pytest.raises(ValueError, match=f"cycles is {cycles!r}; expected a whole number"):
        cyclical(1.0, cycles=cycles)


@pytest.mark.parametrize("rise", [-0.1, 1.1, math.nan])
def test_a_bad_rise_is_named(rise):
    with pytest.raises(ValueError, match=f"{rise}; expected a share"):
        cyclical(1.0, rise=rise)
