"""Datasets on disk, one file each: name -> "module:Class"."""

SOURCES = {
    "folder": "vapdata.sources.folder:Folder",
    "openvid": "vapdata.sources.openvid:OpenVid",
    "synthetic": "vapdata.sources.synthetic:Synthetic",
}
