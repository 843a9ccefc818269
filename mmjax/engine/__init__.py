"""From a config to what runs: the model, its losses, the step, the data and the evaluators."""
