"""Networks in files of other programs, in and out: `options` says what may be asked."""
