"""How long idle threads spin; imported before torch, whose threads read it once.

OpenMP's threads wait for their next share of work by spinning, milliseconds long. On a quiet
machine that is the fastest way to wait. Where other processes want the cores, a thread spins
while the one that it waits for is not running at all, and training becomes many times slower
than its share of the machine explains. A short spin keeps nearly all of the first and loses
little of the second.
"""

import os

SPINS = "1000"
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

# Whoever chose one of them keeps it.
if not any(name in os.environ for name in CHOICES):
    os.environ["GOMP_SPINCOUNT"] = SPINS
