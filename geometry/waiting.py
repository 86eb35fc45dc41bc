"""How the threads of torch wait for each other. Imported before torch, whose OpenMP reads it once, when it is loaded.

A thread that is done waits for the slowest one at the end of every parallel loop, thousands of times per image. GNU
OpenMP (libgomp, which the Linux wheels of torch bring along) has it look again 300 000 times before it sleeps. On a
machine that has other work to do, that takes the core from the thread that is waited for. Looking less often costs a
few percent on a machine that has none: docs/reliability.md, "A machine under load", has the numbers.
"""

import os

_NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Of libgomp, and OpenMP's own; what a user has set stays."""
SPINS = "10000"

if not any(name in os.environ for name in _NAMES):
    os.environ["GOMP_SPINCOUNT"] = SPINS
