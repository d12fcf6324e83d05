"""The command line's commands, a file for each group of them, with imports of ours inside the functions.

`vapdata/cli.py` gathers them; like it, they lie on top: they call storage and pipelines, and nobody imports them.
"""
