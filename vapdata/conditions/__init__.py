"""Who finds or makes clips that show a semantic condition, one file each: name -> "module:Class"."""

PROVIDERS = {
    "clustered": "vapdata.conditions.clustered:Clustered",
    "lora": "vapdata.conditions.lora:Lora",
    "mined": "vapdata.conditions.mined:Mined",
    "procedural": "vapdata.conditions.rendered:Procedural",
    "template": "vapdata.conditions.template:Template",
}

BY_DEFAULT = ("mined", "procedural")
"""Those that `vapdata pairs` asks when none is named: they need no model and no network.

One that cannot make its videos where it is run (their sources lie elsewhere) is then left out, with the reason."""
