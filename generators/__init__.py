"""A trained network of any kind as one thing that draws images: see `generators.door`."""
