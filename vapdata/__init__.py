"""vapdata: data preparation and paired-dataset synthesis for controllable video generation.

This package holds what can be done to one clip, and the command line. `pipelines` runs it over datasets,
`catalogs` stores what comes out, `train` learns from it. Start with `vapdata build --help`.
"""

__version__ = "0.1.0"
