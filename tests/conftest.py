"""Hypothesis profiles: fast and repeatable by default, thorough when asked for.

``HYPOTHESIS_PROFILE=thorough`` draws many more examples, other ones in each run.
"""

import os

# before torch is imported: the tests share the cores already, and threads that wait for one another
# are slow on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

# before transformers is imported: no test looks for a model elsewhere
os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings

# a shared machine may stop for a moment anywhere: no deadline, no complaint about slow draws
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}

settings.register_profile("fast", max_examples=40, derandomize=True, **_common)
settings.register_profile("thorough", max_examples=1000, print_blob=True, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
