"""The runs that there are, as their folders tell: `reading` finds and reads them, `figures` ranks,
`about` knows the methods, `facts` puts together what runs.py shows."""
