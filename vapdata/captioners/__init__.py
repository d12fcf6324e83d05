"""Texts about clips, one file each: name -> "module:Class"."""

CAPTIONERS = {"source": "vapdata.captioners.source:SourceCaption"}
