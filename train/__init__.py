"""What is learned from a catalog's tables: control methods, one loop for all of them, backbones with uniform access."""

METHODS = {
    "fca": "train.fca:Fca",
    "fg": "train.fg:Fg",
    "full": "train.full:Full",
    "ssg": "train.ssg:Ssg",
    "vap": "train.vap:Vap",
}
"""Method name -> where its configuration lies."""
