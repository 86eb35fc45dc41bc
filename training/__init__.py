"""The harness around the models: options, Lightning tasks, checkpoints, metrics."""

import geometry  # noqa: F401  before torch: see geometry/waiting.py
