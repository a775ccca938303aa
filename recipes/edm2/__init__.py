"""EDM2 with online selection: `options` says what may be asked, `parts` makes it."""
