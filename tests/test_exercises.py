import pytest
import torch

from vaelib.course.exercises import compare

X = torch.arange(6.0)


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda x: None, "is not written yet."),
        (lambda x: x + x, "agrees with the reference."),
        (lambda x: 2 * x + 1e-5, "agrees with the reference."),
        (lambda x: x.square(), "is 25.0000 where the reference is 10.0000, at entry 5."),
        (lambda x: 2 * x.sqrt() / (x > 0), "is nan where the reference is 0.0000, at entry 0."),
        (lambda x: x.sum(), "has shape []; expected [6]."),
    ],
)
def test_the_verdict_on_an_attempt(capsys, attempt, says):
    compare(attempt, double, [X])
    assert capsys.readouterr().out == f"<lambda> {says}\n"
