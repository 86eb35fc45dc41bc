"""The harness around the models: options, Lightning tasks, checkpoints, metrics."""
