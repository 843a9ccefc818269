"""Decoding: from a model's apply function to pictures. Apply functions are handed in."""
