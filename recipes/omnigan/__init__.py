"""train_omnigan.py: its settings and options, and its parts made of them.

schema      every setting: its section, kind and default
options     the command line: a file of settings, settings by word, presets
parts       settings -> data, networks, losses, optimizers; `make` for all of these at once
step        the updates of one step
validation  figures and panels
"""
