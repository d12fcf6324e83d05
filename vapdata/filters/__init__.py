"""Numbers and labels about a clip, one file each: name -> "module:Class". `cuts` is where a scan splits a video."""

FILTERS = {
    "aesthetic": "vapdata.filters.aesthetic:Aesthetic",
    "brightness": "vapdata.filters.brightness:Brightness",
    "camera_motion": "vapdata.filters.camera_motion:CameraMotion",
    "clarity": "vapdata.filters.clarity:Clarity",
    "codec_motion": "vapdata.filters.codec_motion:CodecMotion",
    "content": "vapdata.filters.content:Content",
    "cuts": "vapdata.filters.cuts:Cuts",
    "embedding": "vapdata.filters.embedding:Embedding",
    "extent": "vapdata.filters.extent:Extent",
    "fade": "vapdata.filters.fade:Fade",
    "fingerprint": "vapdata.filters.fingerprint:Fingerprint",
    "flash": "vapdata.filters.flash:Flash",
    "letterbox": "vapdata.filters.letterbox:Letterbox",
    "motion": "vapdata.filters.motion:Motion",
    "nsfw": "vapdata.filters.nsfw:Nsfw",
    "static": "vapdata.filters.static:Static",
    "temporal_consistency": "vapdata.filters.temporal_consistency:TemporalConsistency",
    "text_match": "vapdata.filters.text_match:TextMatch",
    "watermark": "vapdata.filters.watermark:Watermark",
}
