"""Texts about clips, one file each: name -> "module:Class"."""

CAPTIONERS = {
    "made": "vapdata.captioners.made:MadeCaption",
    "openai_api": "vapdata.captioners.openai_api:OpenaiApi",
    "qwen_vl": "vapdata.captioners.qwen_vl:QwenVl",
    "source": "vapdata.captioners.source:SourceCaption",
    "vllm": "vapdata.captioners.vllm:Vllm",
}
