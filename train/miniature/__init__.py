"""Tiny models that mean something: trained here, on the miniature world, by the project's own commands.

`python -m train.miniature.make` makes the weights that the package ships (`make tiny-models`);
`python -m train.miniature` trains methods beside them and prints one table of what was learned (`make miniature`).
"""
