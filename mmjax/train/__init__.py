"""State, optimizer, step, loop, checkpoints and metrics. The model, the objective and the evaluators are handed in."""
