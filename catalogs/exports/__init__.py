"""Formats of other trainers that a catalog's videos and captions are written in: name -> "module:Class"."""

EXPORTS = {
    "diffsynth": "catalogs.exports.diffsynth:DiffSynth",
    "finetrainers": "catalogs.exports.finetrainers:Finetrainers",
    "vap": "catalogs.exports.vap:Vap",
    "webdataset": "catalogs.exports.webdataset:WebDataset",
}
