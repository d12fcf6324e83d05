"""Encoders: clips to tensors. Name -> where its class is, so that looking one up imports nothing heavy."""

ENCODERS: dict[str, str] = {
    "blip2_words": "vapdata.encoders.blip2_words:Blip2Words",
    "clip_mask": "vapdata.encoders.clip_mask:ClipMask",
    "clip_text": "vapdata.encoders.clip_text:ClipText",
    "first_frame": "vapdata.encoders.first_frame:FirstFrame",
    "image_tokens": "vapdata.encoders.image_tokens:ImageTokens",
    "keywords": "vapdata.encoders.keywords:Keywords",
    "llava": "vapdata.encoders.llava:Llava",
    "t5": "vapdata.encoders.t5:T5",
    "umt5": "vapdata.encoders.umt5:Umt5",
    "vae": "vapdata.encoders.vae:Vae",
    "vae_condition": "vapdata.encoders.vae_condition:VaeCondition",
    "vae_first": "vapdata.encoders.vae_first:VaeFirst",
}
