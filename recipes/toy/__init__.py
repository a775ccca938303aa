"""The 2-D tree: `options` says what may be asked; networks, logs and pictures of it."""
