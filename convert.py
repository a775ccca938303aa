"""Networks in files of other programs: what one is, brought in, or given out in formats of others.

    python convert.py FILE                          # what the file is; writes nothing
    python convert.py FILE --to snapshot            # bring it in: FILE.safetensors beside it
    python convert.py RUN --to FORMAT --out PATH    # give out, in a format of others

FILE is read as data, nothing in it runs. What is known of each format, and which of its names
become which of ours: docs/convert.md. What each option means: recipes/convert/options.py; the
formats that are read: generators/foreign; those that are written: recipes/convert/targets.py.
"""
