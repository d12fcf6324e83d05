"""Datasets on disk, one file each: name -> "module:Class"."""

SOURCES = {
    "bridge": "vapdata.sources.bridge:Bridge",
    "epic": "vapdata.sources.epic:Epic",
    "folder": "vapdata.sources.folder:Folder",
    "lerobot": "vapdata.sources.lerobot:LeRobot",
    "miniature": "vapdata.sources.miniature:Miniature",
    "openvid": "vapdata.sources.openvid:OpenVid",
    "ssv2": "vapdata.sources.ssv2:SSv2",
    "synthetic": "vapdata.sources.synthetic:Synthetic",
    "vap_data": "vapdata.sources.vap_data:VapData",
}
