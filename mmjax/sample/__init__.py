"""Decoding: from a model's apply function to images. Apply functions are handed in."""
