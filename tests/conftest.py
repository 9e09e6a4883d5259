"""Settings for every test: one thread a process, no window, no network, no clock in property tests."""

import os

from hypothesis import settings

# Before anything imports torch or matplotlib. `scripts/test` sets the same; this is for a bare `pytest`.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"

# A busy machine must not fail a property; in CI the same examples come every time.
settings.register_profile("calibadv", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("calibadv")
