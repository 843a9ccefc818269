"""Builds and trains what a config describes: model, losses, train step, data and evaluators."""
