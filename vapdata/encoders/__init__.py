"""Encoders: clips to tensors. Name -> where its class is, so that looking one up imports nothing heavy."""

ENCODERS: dict[str, str] = {
    "clip_mask": "vapdata.encoders.clip_mask:ClipMask",
    "first_frame": "vapdata.encoders.first_frame:FirstFrame",
    "t5": "vapdata.encoders.t5:T5",
    "vae": "vapdata.encoders.vae:Vae",
    "vae_first": "vapdata.encoders.vae_first:VaeFirst",
}
