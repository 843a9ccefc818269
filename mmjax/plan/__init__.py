"""Planning: the memory, traffic and time of a training step on devices that are not here, compiled ahead of time."""
