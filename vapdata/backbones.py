"""What is fixed about each video backbone: where its models live, how its VAE counts frames, how its text is padded.

Plain numbers, no torch: the command line and the planner read them. Encoders and trainers ask here instead of
repeating a stride or a scaling factor. Exercised by `pytest tests/vapdata/test_backbones.py`.
"""

from dataclasses import replace
from difflib import get_close_matches

from vapdata.backbone_facts import Backbone, ClipFacts, Condition, Objective, TextFacts, VaeFacts, VaePeak
from vapdata.errors import CallError
from vapdata.frame_law import COGVIDEOX_LAW, HUNYUAN_LAW, WAN_LAW, FrameLaw

__all__ = ["BACKBONES", "Backbone", "ClipFacts", "Condition", "FrameLaw", "Objective", "TextFacts", "VaeFacts", "backbone"]

_COGVIDEOX_PEAK = VaePeak(channels=128, frames=9, copies=8)
_WAN_PEAK = VaePeak(channels=96, frames=4, copies=12.5)
_HUNYUAN_PEAK = VaePeak(channels=128, frames=17, copies=6.5, attended_frames=5)

_WAN_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
_WAN_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
"""`latents_mean` and `latents_std` of AutoencoderKLWan's released config."""
_HUNYUAN_SCALING = 0.476986

_TINY_CLIP = ClipFacts(repo="tiny-cogvideox", subfolder="clip", product="tiny-clip", quick_gelu=True, mask_layer=0, mask_kernel=1)
"""Its four blocks soon store what they found in patches of the ground: attention of block 0 points at the named object in 0.67 of
scenes, of blocks 1 to 3 in 0.34, 0.39 and 0.21. Its grid of 12 x 12 is half as fine as ViT-L/14's 24 x 24, so 3 x 3 would cover four times the area."""
_CLIP_L14_336 = ClipFacts(
    repo="timm/vit_large_patch14_clip_336.openai",
    subfolder="",
    product="clip-l14-336",
    quick_gelu=True,
    bytes=1_710_000_000,
    architecture="ViT-L-14-336",
)


def _cogvideox(name: str, short: str, repo: str, scaling_factor: float, *, image_to_video: bool) -> Backbone:
    """`short` starts the names of products. Repositories are not known to hold the same bytes, so each has its own."""
    shards = tuple(f"model-{part:05d}-of-00002.safetensors" for part in (1, 2))
    return Backbone(
        name=name,
        family="cogvideox",
        repo=f"zai-org/{repo}",
        aliases=(f"THUDM/{repo}",),
        vae=VaeFacts(
            model_class="AutoencoderKLCogVideoX",
            subfolder="vae",
            product=f"{short}-vae",
            latent_channels=16,
            spatial_stride=8,
            scaling_factor=scaling_factor,
            law=COGVIDEOX_LAW,
            peak=_COGVIDEOX_PEAK,
            bytes=431_000_000,
        ),
        text=TextFacts(
            subfolder="text_encoder",
            tokenizer_subfolder="tokenizer",
            product=f"{short}-t5-226",
            rows=226,
            width=4096,
            hub_files=("model.safetensors.index.json", *shards),
            bytes=9_520_000_000,
        ),
        clip=_CLIP_L14_336,
        objective="v_prediction",
        image_to_video=image_to_video,
        condition="zero_latents" if image_to_video else None,
        frames=49,
        height=480,
        width=720,
        fps=8,
    )


def _cogvideox_15(name: str, repo: str, *, image_to_video: bool) -> Backbone:
    """CogVideoX 1.5: two latent frames a patch, 81 frames of 768 x 1360 at 16 fps.

    Its model card allows 224 text tokens; its transformer's config, and so diffusers' pipelines, say 226.
    """
    first = _cogvideox(name, name, repo, 0.7, image_to_video=image_to_video)
    vae = replace(first.vae, invert_image_latents=True)
    return replace(first, vae=vae, frames=81, height=768, width=1360, fps=16, patch_frames=2)


TINY_COGVIDEOX = Backbone(
    name="tiny-cogvideox",
    family="cogvideox",
    repo="tiny-cogvideox",
    vae=VaeFacts(
        model_class="AutoencoderKLCogVideoX",
        subfolder="vae",
        product="tiny-cogvideox-vae",
        latent_channels=16,
        spatial_stride=8,
        scaling_factor=1.15258426,
        law=COGVIDEOX_LAW,
        peak=replace(_COGVIDEOX_PEAK, channels=8),
    ),
    text=TextFacts(
        subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
        product="tiny-t5-32",
        rows=32,  # not 226: every row is live, and on a CPU they would cost more than the video's tokens
        width=64,
        hub_files=("model.safetensors",),
    ),
    clip=_TINY_CLIP,
    objective="v_prediction",
    image_to_video=True,
    condition="zero_latents",
    frames=9,
    height=96,
    width=160,
    fps=8,
    tiny=True,
)

TINY_WAN = Backbone(
    name="tiny-wan",
    family="wan",
    repo="tiny-wan",
    vae=VaeFacts(
        model_class="AutoencoderKLWan",
        subfolder="vae",
        product="tiny-wan-vae",
        latent_channels=16,
        spatial_stride=8,
        mean=_WAN_MEAN,
        std=_WAN_STD,
        law=WAN_LAW,
        peak=replace(_WAN_PEAK, channels=8),
        precision="f32",
    ),
    text=TextFacts(
        subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
        product="tiny-umt5-512",
        rows=512,
        width=64,
        hub_files=("model.safetensors",),
    ),
    clip=_TINY_CLIP,
    objective="flow",
    image_to_video=True,
    condition="zero_frames",
    frames=9,
    height=96,
    width=160,
    fps=16,
    tiny=True,
)

TINY_HUNYUAN = Backbone(
    name="tiny-hunyuan",
    family="hunyuan",
    repo="tiny-hunyuan",
    vae=VaeFacts(
        model_class="AutoencoderKLHunyuanVideo",
        subfolder="vae",
        product="tiny-hunyuan-vae",
        latent_channels=16,
        spatial_stride=8,
        scaling_factor=_HUNYUAN_SCALING,
        law=HUNYUAN_LAW,
        peak=replace(_HUNYUAN_PEAK, channels=8),
    ),
    text=TextFacts(
        subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
        product="tiny-llava-256",
        rows=256,
        width=64,
        hub_files=("model.safetensors",),
    ),
    clip=_TINY_CLIP,
    objective="flow",
    image_to_video=True,
    condition="token_replace",
    frames=9,
    height=96,
    width=160,
    fps=24,
    tiny=True,
)

_WAN_REPOS = ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")
"""All of Wan2.1 shares one VAE and one UMT5: they are looked for in the smallest repository first, then in the others."""


def _wan(name: str, repo: str, *, image_to_video: bool, height: int, width: int) -> Backbone:
    return Backbone(
        name=name,
        family="wan",
        repo=repo,
        vae=VaeFacts(
            model_class="AutoencoderKLWan",
            repo=_WAN_REPOS[0],
            aliases=_WAN_REPOS[1:],
            subfolder="vae",
            product="wan2.1-vae",
            latent_channels=16,
            spatial_stride=8,
            mean=_WAN_MEAN,
            std=_WAN_STD,
            law=WAN_LAW,
            peak=_WAN_PEAK,
            precision="f32",
            bytes=508_000_000,
        ),
        text=TextFacts(
            repo=_WAN_REPOS[0],
            aliases=_WAN_REPOS[1:],
            subfolder="text_encoder",
            tokenizer_subfolder="tokenizer",
            product="wan2.1-umt5-512",
            rows=512,
            width=4096,
            hub_files=("model.safetensors.index.json", *(f"model-{part:05d}-of-00005.safetensors" for part in range(1, 6))),
            bytes=22_700_000_000,
        ),
        clip=_CLIP_L14_336,
        objective="flow",
        image_to_video=image_to_video,
        condition="zero_frames" if image_to_video else None,
        frames=81,
        height=height,
        width=width,
        fps=16,
    )


HUNYUANVIDEO_I2V = Backbone(
    name="hunyuanvideo-i2v",
    family="hunyuan",
    repo="hunyuanvideo-community/HunyuanVideo-I2V",
    vae=VaeFacts(
        model_class="AutoencoderKLHunyuanVideo",
        subfolder="vae",
        product="hunyuanvideo-vae",
        latent_channels=16,
        spatial_stride=8,
        scaling_factor=_HUNYUAN_SCALING,
        law=HUNYUAN_LAW,
        peak=_HUNYUAN_PEAK,
        bytes=986_000_000,
    ),
    text=TextFacts(
        subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
        product="hunyuanvideo-llava-256",
        rows=256,
        width=4096,
        hub_files=("model.safetensors.index.json", *(f"model-{part:05d}-of-00004.safetensors" for part in range(1, 5))),
        bytes=16_700_000_000,
    ),
    clip=_CLIP_L14_336,
    objective="flow",
    image_to_video=True,
    condition="token_replace",
    frames=129,
    height=720,
    width=1280,
    fps=24,
)

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        TINY_COGVIDEOX,
        TINY_WAN,
        TINY_HUNYUAN,
        _cogvideox("cogvideox-2b", "cogvideox-2b", "CogVideoX-2b", 1.15258426, image_to_video=False),
        _cogvideox("cogvideox-5b", "cogvideox-5b-t2v", "CogVideoX-5b", 0.7, image_to_video=False),
        _cogvideox("cogvideox-5b-i2v", "cogvideox-5b", "CogVideoX-5b-I2V", 0.7, image_to_video=True),
        _cogvideox_15("cogvideox-1.5-5b", "CogVideoX1.5-5B", image_to_video=False),
        _cogvideox_15("cogvideox-1.5-5b-i2v", "CogVideoX1.5-5B-I2V", image_to_video=True),
        _wan("wan2.1-t2v-1.3b", _WAN_REPOS[0], image_to_video=False, height=480, width=832),
        _wan("wan2.1-t2v-14b", _WAN_REPOS[1], image_to_video=False, height=720, width=1280),
        _wan("wan2.1-i2v-14b-480p", _WAN_REPOS[2], image_to_video=True, height=480, width=832),
        HUNYUANVIDEO_I2V,
    )
}

ALIASES = {"tiny": "tiny-cogvideox"}


def backbone(name: str) -> Backbone:
    """The backbone of this name (`tiny` is `tiny-cogvideox`); raises CallError with the nearest names for another."""
    found = BACKBONES.get(ALIASES.get(name, name))
    if found is None:
        near = get_close_matches(name, BACKBONES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise CallError(f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}.{hint}")
    return found
