"""Hypothesis profiles: fast and repeatable by default, thorough when asked; what the twins skip.

``HYPOTHESIS_PROFILE=thorough`` draws many more examples, other ones in each run.
"""

import os

# before torch is imported: the tests share the cores already, and threads that wait for one another
# are slow on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

# before transformers is imported: no test looks for a model elsewhere
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings

from deepcomp import _kernels

# a shared machine may stop for a moment anywhere: no deadline, no complaint about slow draws
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("fast", max_examples=40, derandomize=True, **_common)
settings.register_profile("thorough", max_examples=1000, print_blob=True, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# files, pages, commands, threads and whole programs: what is computed is compared elsewhere
_FILES = "budget", "checksums", "commands", "concurrency", "docs", "examples", "folders", "hf"
_MORE = "hf_folders", "page", "plot", "process", "pruner", "remote", "saving"
NOT_WITH_TWINS = {f"test_{name}.py" for name in (*_FILES, *_MORE)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what has nothing to do with kernels in the run with the NumPy twins, which is slow."""
    if _kernels.build_info()["kernels"] == "native":
        return
    skip = pytest.mark.skip(reason="not about kernels, and slow with the twins")
    for item in items:
        if item.path.name in NOT_WITH_TWINS:
            item.add_marker(skip)
