"""Networks, without their training."""

import geometry  # noqa: F401  before torch: see geometry/waiting.py
