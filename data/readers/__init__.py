"""Where pictures lie: folders, zips, LMDB, arrays. Each says what it is and opens it."""
