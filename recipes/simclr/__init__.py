"""SimCLR: `options` says what may be asked, `parts` makes it, `validation` judges what came of it,
`figures` keeps that with the run, `files` reads and writes networks."""
