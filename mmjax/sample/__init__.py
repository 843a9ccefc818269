"""Sampling: from a model's functions to images and text."""
