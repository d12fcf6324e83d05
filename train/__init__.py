"""What is learned from a catalog's tables: control methods, one loop for all of them, backbones with uniform access."""

METHODS = {
    "full": "train.full:Full",
    "vap": "train.vap:Vap",
}
"""Method name -> where its configuration lies."""
