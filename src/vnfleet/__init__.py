"""vnfleet: the weekly model factory for Vietnamese stocks."""

import os

__version__ = "0.1.0"

# Before torch loads OpenMP: threads that spin for long while they wait make training ten times slower as soon as
# anything else uses the machine (2 cores and one other busy process: 3.0 s a step against 0.25 s). A short spin keeps
# nearly all of the speed of an idle machine (0.130 s a step; long spin 0.127 s, no spin 0.144 s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Batches differ in the symbols they hold, and oneDNN keeps a kernel with its buffers for each shape of matrix product
# it met: a thousand by default, 1 GiB after a hundred steps. 32 are as fast.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
