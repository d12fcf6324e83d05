"""The papers' ablation tables, one file for each method; `python -m train.ablate METHOD` runs them at another scale."""

TABLES = {
    "vap": "train.ablations.vap:TABLE",
    "fca": "train.ablations.fca:TABLE",
    "ssg": "train.ablations.ssg:TABLE",
    "fg": "train.ablations.fg:TABLE",
}
"""Method name -> where its table lies, a `train.ablations.table.Table`."""
