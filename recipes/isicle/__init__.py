"""ISICLE, SimCLR on generated views: `options` says what may be asked, `parts` makes it, `supply`
makes the batches, `generator` goes on training what draws them."""
