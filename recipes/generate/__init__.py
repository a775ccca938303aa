"""Images of a trained network: `options` says what may be asked, `folders` where they go."""
