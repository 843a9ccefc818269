"""Neural network layers. They take plain ints and dtypes, never a config or a mesh."""
