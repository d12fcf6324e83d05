"""Texts about clips, one file each: name -> "module:Class"."""

CAPTIONERS = {
    "made": "vapdata.captioners.made:MadeCaption",
    "source": "vapdata.captioners.source:SourceCaption",
}
