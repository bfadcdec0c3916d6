import os
import subprocess
import sys

import pytest

from vaelib.threads import CHOICES, SPINS

PROGRAM = """
import os, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(*(os.environ.get(c) for c in {choices}))

sys.meta_path.insert(0, Watch())
import vaelib

assert "torch" not in sys.modules
vaelib.fit
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, ["None", SPINS]), ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "None"]),
     ({"GOMP_SPINCOUNT": "7"}, ["None", "7"])],
)  # fmt: skip
def test_torch_finds_a_short_spin_unless_another_was_chosen(chosen, expected):
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES} | chosen
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(choices=CHOICES)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == expected
