"""Pages about runs: `reading` reads folders however damaged, `times` says where the time went,
`told` puts runs side by side, `pictures` makes sheets small, `page` writes the HTML."""
