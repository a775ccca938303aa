"""Files of other programs, read as data: nothing in them is ever executed."""
