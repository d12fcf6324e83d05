import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vapdata
from train import METHODS, export
from train.backbones import load_backbone
from train.export import Card, export_backbone, export_released, fingerprint, import_released, load_export, read_card
from train.full import Full
from train.method import Backbone, unwrapped
from train.vap import Vap
from vapdata import backbones
from vapdata.errors import CallError, RunError

TINY = backbones.backbone("tiny-cogvideox")
CARD = Card(backbone=TINY.name, catalog="catalog", index="1f" * 32, step=30)
METHOD = Vap(expert_layers=(0, 2), caption_drop=0.1)


def _backbone(folder: Path | None = None, dtype: torch.dtype = torch.float32) -> Backbone:
    return load_backbone(TINY, dtype=dtype, device=torch.device("cpu"), folder=str(folder) if folder else None)


@pytest.fixture(scope="module")
def frozen() -> Backbone:
    return _backbone()


def _learned(module: nn.Module) -> nn.Module:
    """The module as if it had been trained."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return module


@pytest.fixture(scope="module")
def learned(frozen: Backbone) -> nn.Module:
    return _learned(METHOD.attach(frozen, unwrapped))


def _equal(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return state.keys() == one.state_dict().keys() and all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def _rewritten(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def _with_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Other weights in an export, with a card that fits them."""
    save_file(tensors, folder / "vap.safetensors")
    _rewritten(folder, sha256={"vap.safetensors": hashlib.sha256((folder / "vap.safetensors").read_bytes()).hexdigest()})


def test_a_method_is_rebuilt_from_card_and_weights_alone(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    assert export.export(tmp_path, learned, METHOD, frozen, CARD) == tmp_path / "vap.safetensors"
    read = load_export(tmp_path, _backbone())
    assert _equal(learned, read)
    assert not read.training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "vap.safetensors"]


def test_the_card_says_what_the_weights_are(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    path = export.export(tmp_path, learned, METHOD, frozen, CARD)
    card = read_card(tmp_path)
    assert (card.backbone, card.catalog, card.index, card.step) == (TINY.name, "catalog", "1f" * 32, 30)
    assert (card.method, card.config["expert_layers"], card.config["caption_drop"]) == ("vap", [0, 2], 0.1)
    assert card.config.keys() == dataclasses.asdict(METHOD).keys()
    assert card.parameters == sum(value.numel() for value in learned.parameters())
    assert card.sha256 == {"vap.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert (card.versions["vapdata"], card.versions["torch"]) == (vapdata.__version__, torch.__version__)
    assert (card.dtype, card.averaged, card.weights) == ("float32", False, fingerprint(frozen))


def test_bfloat16_halves_the_file_and_is_read_into_float32(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    whole = export.export(tmp_path / "whole", learned, METHOD, frozen, CARD).stat().st_size
    half = export.export(tmp_path / "half", learned, METHOD, frozen, CARD, dtype=torch.bfloat16).stat().st_size
    assert 0.45 < half / whole < 0.6
    assert read_card(tmp_path / "half").dtype == "bfloat16"
    read = load_export(tmp_path / "half", frozen)
    assert {value.dtype for value in read.parameters()} == {torch.float32}
    assert all(torch.equal(value.bfloat16().float(), read.state_dict()[name]) for name, value in learned.state_dict().items())
    with pytest.raises(CallError, match=r"export: weights are written as float32 or bfloat16, got torch\.float16"):
        export.export(tmp_path, learned, METHOD, frozen, CARD, dtype=torch.float16)


def test_a_moving_average_replaces_the_weights_it_names_and_the_card_says_so(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    name = next(iter(learned.state_dict()))
    average = {name: torch.full_like(learned.state_dict()[name], 0.25)}
    held = load_file(export.export(tmp_path, learned, METHOD, frozen, CARD, ema=average))
    assert torch.equal(held[name], average[name])
    assert all(torch.equal(held[each], value) for each, value in learned.state_dict().items() if each != name)
    assert read_card(tmp_path).averaged


def test_an_earlier_export_is_replaced_and_other_files_there_stay(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = METHOD.attach(frozen, unwrapped)
    export.export(tmp_path, first, METHOD, frozen, CARD)
    export.export(tmp_path, learned, METHOD, frozen, dataclasses.replace(CARD, step=60))
    assert read_card(tmp_path).step == 60
    assert _equal(learned, load_export(tmp_path, frozen))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "notes.txt", "vap.safetensors"]


def test_an_export_that_cannot_be_written_leaves_the_earlier_one_whole(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    export.export(tmp_path, learned, METHOD, frozen, CARD)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    untouchable = {"entry.patch_embed.proj.weight": torch.empty(1, device="meta")}
    with pytest.raises(NotImplementedError):
        export.export(tmp_path, learned, METHOD, frozen, CARD, ema=untouchable)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"file/export: the export cannot be written \(Not a directory\)\. Free the disk; the newest checkpoint holds the weights"):
        export.export(tmp_path / "file" / "export", learned, METHOD, frozen, CARD)


def test_a_folder_without_a_card_holds_no_export(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    export.export(tmp_path, learned, METHOD, frozen, CARD)
    (tmp_path / "card.json").unlink()
    with pytest.raises(CallError) as refused:
        load_export(tmp_path, frozen)
    assert str(refused.value) == f"{tmp_path}: has no card.json, so no export was finished here. Name the export folder of a run that came to its end"


def test_another_backbones_card_is_refused(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    export.export(tmp_path, learned, METHOD, frozen, CARD)
    _rewritten(tmp_path, backbone="cogvideox-5b-i2v")
    with pytest.raises(CallError) as refused:
        load_export(tmp_path, frozen)
    assert str(refused.value) == f"{tmp_path}/card.json: these weights belong to cogvideox-5b-i2v, got tiny-cogvideox. Type --backbone cogvideox-5b-i2v"
    with pytest.raises(CallError, match="the card names cogvideox-2b, the weights were trained on tiny-cogvideox"):
        export.export(tmp_path, learned, METHOD, frozen, dataclasses.replace(CARD, backbone="cogvideox-2b"))


def test_a_card_of_no_known_method_or_with_settings_of_another_version_is_refused(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    export.export(tmp_path, learned, METHOD, frozen, CARD)
    config = json.loads((tmp_path / "card.json").read_text())["config"]
    _rewritten(tmp_path, config=config | {"heads": 3})
    with pytest.raises(CallError, match=rf"card\.json: vap does not take this configuration \(.*'heads'\)\. Use the vapdata that wrote it: {vapdata.__version__}"):
        load_export(tmp_path, frozen)
    _rewritten(tmp_path, method="vape", config=config)
    with pytest.raises(CallError) as refused:
        load_export(tmp_path, frozen)
    assert str(refused.value) == f"'vape' is no method, did you mean 'vap'. Known: {', '.join(sorted(METHODS))}."


def test_weights_that_are_not_the_cards_are_refused(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    path = export.export(tmp_path, learned, METHOD, frozen, CARD)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"vap\.safetensors: is not the file that card\.json describes \(sha256 [0-9a-f]{12}, wanted [0-9a-f]{12}\)\. Make the export again"):
        load_export(tmp_path, frozen)
    path.unlink()
    with pytest.raises(RunError, match=r"vap\.safetensors: card\.json speaks of this file, and it is not there\. Make the export again"):
        load_export(tmp_path, frozen)


def test_missing_left_over_and_mis_shaped_tensors_are_one_sentence_each(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    export.export(tmp_path, learned, METHOD, frozen, CARD)
    whole = load_file(tmp_path / "vap.safetensors")
    name, count = min(whole), len(whole)
    where = f"{tmp_path}/vap.safetensors"
    whose = f"vap as {tmp_path}/card.json describes it"
    for tensors, sentence in (
        ({each: value for each, value in whole.items() if each != name}, f"{where}: lacks 1 of the {count} tensors of {whose} ({name}). Name the file that holds them"),
        (whole | {"zebra": torch.zeros(2)}, f"{where}: holds 1 tensors too many for {whose} (zebra). Name the file that belongs to it"),
        (
            whole | {name: torch.zeros(3, 1)},
            f"{where}: {name} is (3, 1), {whose} wants {tuple(whole[name].shape)} (1 such tensors). Name the file that belongs to it",
        ),
    ):
        _with_weights(tmp_path, tensors)
        with pytest.raises(CallError) as refused:
            load_export(tmp_path, frozen)
        assert str(refused.value) == sentence


def test_a_backbones_fingerprint_is_one_in_either_precision_and_another_after_training() -> None:
    first = _backbone()
    before = fingerprint(first)
    assert before == fingerprint(_backbone(dtype=torch.bfloat16))
    METHOD.attach(first, unwrapped)
    assert fingerprint(first) == before, "a method beside the backbone leaves it alone"
    _learned(Full().attach(first, unwrapped))
    assert fingerprint(first) != before


def test_a_trained_backbone_is_a_diffusers_folder_that_load_backbone_takes(tmp_path: Path) -> None:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    trained = _backbone()
    _learned(Full().attach(trained, unwrapped))
    assert export_backbone(tmp_path, trained, CARD) == tmp_path
    read = _backbone(tmp_path)
    assert _equal(trained.transformer, read.transformer)
    assert dict(read.scheduler_config) == dict(trained.scheduler_config)
    assert _equal(trained.transformer, CogVideoXTransformer3DModel.from_pretrained(tmp_path / "transformer", local_files_only=True))
    assert CogVideoXDDIMScheduler.from_pretrained(tmp_path / "scheduler", local_files_only=True).config.prediction_type == "v_prediction"
    card = read_card(tmp_path)
    assert (card.step, card.weights, [*card.sha256]) == (30, fingerprint(read), ["transformer/diffusion_pytorch_model.safetensors"])
    with pytest.raises(CallError) as refused:
        load_export(tmp_path, read)
    assert str(refused.value) == f"{tmp_path}: holds a trained tiny-cogvideox, not a method's weights. Use it as the backbone: --weights {tmp_path}"


def test_a_trained_backbones_moving_average_is_what_is_exported_and_what_the_card_speaks_of(tmp_path: Path) -> None:
    trained = _backbone()
    average = {name: value.clone() for name, value in trained.transformer.named_parameters()}
    _learned(Full().attach(trained, unwrapped))
    export_backbone(tmp_path, trained, CARD, ema=average)
    read = _backbone(tmp_path)
    assert all(torch.equal(value, average[name]) for name, value in read.transformer.named_parameters())
    assert read_card(tmp_path).averaged
    assert read_card(tmp_path).weights == fingerprint(read) != fingerprint(trained)


def test_a_large_trained_backbone_is_sharded_as_diffusers_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.export.SHARD_BYTES", 1_000_000)
    trained = _backbone()
    _learned(Full().attach(trained, unwrapped))
    export_backbone(tmp_path, trained, CARD, dtype=torch.bfloat16)
    assert len([*(tmp_path / "transformer").glob("*.safetensors")]) > 2
    read = _backbone(tmp_path, torch.bfloat16)
    assert all(torch.equal(value.to(torch.bfloat16), read.transformer.state_dict()[name]) for name, value in trained.transformer.state_dict().items())


def test_weights_trained_beside_another_backbone_of_the_same_name_are_refused(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    export.export(tmp_path / "method", learned, METHOD, frozen, CARD)
    other = _backbone()
    _learned(Full().attach(other, unwrapped))
    export_backbone(tmp_path / "backbone", other, CARD)
    with pytest.raises(CallError) as refused:
        load_export(tmp_path / "method", _backbone(tmp_path / "backbone"))
    assert str(refused.value) == (
        f"{tmp_path}/method/card.json: these weights were trained beside other weights of tiny-cogvideox (fingerprint {fingerprint(frozen)}, got {fingerprint(other)}). "
        "Name the folder they were trained with: --weights FOLDER"
    )


@pytest.mark.parametrize("file_bytes", [10**9, 300_000])
def test_the_authors_names_lead_there_and_back(file_bytes: int, tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    names = METHOD.release_names(frozen)
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    export_released(path, learned, names, file_bytes=file_bytes)
    assert path.exists() == (file_bytes == 10**9)
    read = METHOD.attach(frozen, unwrapped)
    assert import_released(path.parent, read, names) == ()
    assert _equal(learned, read)


def test_a_released_file_of_the_whole_transformer_is_taken_in_part_and_the_rest_is_listed(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    names = METHOD.release_names(frozen)
    theirs = {names[name]: value.bfloat16() for name, value in learned.state_dict().items()}
    backbone = {name: value.bfloat16() for name, value in frozen.transformer.state_dict().items()}
    save_file(backbone | theirs, tmp_path / "released.safetensors")
    read = METHOD.attach(frozen, unwrapped)
    assert import_released(tmp_path / "released.safetensors", read, names) == tuple(sorted(backbone))
    assert all(torch.equal(value.bfloat16().float(), read.state_dict()[name]) for name, value in learned.state_dict().items())


def test_released_weights_that_do_not_fit_change_nothing(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    names = METHOD.release_names(frozen)
    theirs = {names[name]: value.clone() for name, value in learned.state_dict().items()}
    some = min(theirs)
    fresh = METHOD.attach(frozen, unwrapped)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    path = tmp_path / "released.safetensors"
    for tensors, sentence in (
        ({name: value for name, value in theirs.items() if name != some}, f"{path}: lacks 1 of the {len(theirs)} tensors of the release ({some}). Name the file that holds them"),
        (
            theirs | {some: torch.zeros(7)},
            f"{path}: {some} is (7,), the release wants {tuple(theirs[some].shape)} (1 such tensors). Name the file that belongs to it",
        ),
    ):
        save_file(tensors, path)
        with pytest.raises(CallError) as refused:
            import_released(path, fresh, names)
        assert str(refused.value) == sentence
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_a_method_without_released_names_says_so(tmp_path: Path, frozen: Backbone, learned: nn.Module) -> None:
    count = len(learned.state_dict())
    with pytest.raises(CallError, match=rf"{count} of {count} tensors have no released name \(.*\): nothing was released for this configuration\. Use export instead"):
        export_released(tmp_path / "x.safetensors", learned, {})
    with pytest.raises(CallError, match=r"released names speak of 1 tensors that the method does not have \(nothing\)\. Attach it with the configuration that made the names"):
        export_released(tmp_path / "x.safetensors", learned, {**METHOD.release_names(frozen), "nothing": "theirs"})
    with pytest.raises(CallError, match=r"x\.bin: released weights are written as safetensors\. Type a name that ends in \.safetensors"):
        export_released(tmp_path / "x.bin", learned, METHOD.release_names(frozen))
