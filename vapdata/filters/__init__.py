"""Numbers and labels about a clip, one file each: name -> "module:Class". `cuts` is where a scan splits a video."""

FILTERS = {
    "brightness": "vapdata.filters.brightness:Brightness",
    "camera_motion": "vapdata.filters.camera_motion:CameraMotion",
    "clarity": "vapdata.filters.clarity:Clarity",
    "cuts": "vapdata.filters.cuts:Cuts",
    "extent": "vapdata.filters.extent:Extent",
    "motion": "vapdata.filters.motion:Motion",
}
