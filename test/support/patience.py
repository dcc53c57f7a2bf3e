"""How long a test waits for what must happen.

Never a promise of speed: a machine that is busy with other programs takes its time. The benchmarks
and `make soak` measure speed.
"""

HANG = 240.0  # seconds after which something counts as hung
