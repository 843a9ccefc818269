"""Synthetic scenes: images and clips of simple shapes with captions and questions, and checkers for them."""
