"""Views drawn once and kept: `options` says what may be asked, `parts` makes it."""
