"""Post-hoc EMA: `options` says what may be asked, `inputs` which snapshots it is made of."""
