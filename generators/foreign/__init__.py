"""Networks in files of other programs: `formats` knows them all, each other module one family."""
