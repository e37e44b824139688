"""Folders of transformers and sentence-transformers: nothing that is saved is lost or another."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest

import deepcomp
import deepcomp.hf
from deepcomp.cli import main

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
prune = pytest.importorskip("torch.nn.utils.prune")

TOKENS = torch.arange(12).reshape(2, 6) * 5 % 60


def make(name="BertModel", **settings):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, num_hidden_layers=2,
        intermediate_size=64, max_position_embeddings=40, **settings,
    )  # fmt: skip
    return getattr(transformers, name)(config).eval()


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def embed(folder):
    """Read a folder as sentence-transformers does: each part where ``modules.json`` says it is."""
    folder = Path(folder)
    modules = json.loads((folder / "modules.json").read_text())
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = [folder / module["path"] for module in modules]
    settings = json.loads((paths[0] / "sentence_bert_config.json").read_text())
    model = transformers.AutoModel.from_pretrained(paths[0]).eval()
    assert json.loads((paths[1] / "config.json").read_text())["pooling_mode_mean_tokens"]
    sizes = json.loads((paths[2] / "config.json").read_text())
    dense = torch.nn.Linear(sizes["in_features"], sizes["out_features"])
    dense.load_state_dict(torch.load(paths[2] / "pytorch_model.bin", weights_only=True))
    assert paths[3].is_dir()
    tokens = TOKENS[:, : settings["max_seq_length"]]
    with torch.inference_mode():
        mean = model(tokens).last_hidden_state.mean(1)
        return torch.nn.functional.normalize(dense(mean), dim=1)


@pytest.fixture(params=["", "0_Transformer"])
def sentences(request, tmp_path):
    """Make a folder as sentence-transformers write it; older ones have the model in a part."""
    folder, torch_model = tmp_path / "sentences", make()
    torch_model.save_pretrained(folder / request.param)
    names = {"Transformer": request.param, "Pooling": "1_Pooling", "Dense": "2_Dense"}
    names["Normalize"] = "3_Normalize"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(names.items())
    ]
    write(folder / "modules.json", modules)
    write(folder / "README.md", "a model")
    write(folder / request.param / "sentence_bert_config.json", {"max_seq_length": 5})
    write(folder / request.param / "tokenizer.json", {"version": "1.0"})
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    write(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 8})
    torch.save(torch.nn.Linear(32, 8).state_dict(), folder / "2_Dense" / "pytorch_model.bin")
    (folder / "3_Normalize").mkdir()
    return folder


def main_of(folder, sentences):
    return folder / ("" if (sentences / "config.json").exists() else "0_Transformer")


def test_a_folder_of_sentence_transformers_keeps_all_its_parts(sentences, tmp_path):
    packed = tmp_path / "packed"
    assert main(["compress", str(sentences), str(packed), "--bits", "none"]) == 0
    weights = main_of(packed, sentences) / "model.safetensors"
    assert main(["decompress", str(packed), str(weights)]) == 0
    assert torch.equal(embed(packed), embed(sentences))
    loaded = deepcomp.hf.from_pretrained(packed, layers="dense")
    expected = transformers.AutoModel.from_pretrained(main_of(sentences, sentences)).eval()
    with torch.inference_mode():
        found, wanted = (m(TOKENS).last_hidden_state for m in (loaded, expected))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("sentences", [""], indirect=True)
@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_model_is_saved_with_what_is_beside_its_config(sentences, tmp_path, where, monkeypatch):
    name = str(sentences)
    if where == "cache":
        name, cache, commit = "someone/sentences", tmp_path / "cache", "a" * 40
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        snapshot = cache / "models--someone--sentences" / "snapshots" / commit
        shutil.copytree(sentences, snapshot)
        write(snapshot.parent.parent / "refs" / "main", commit)
    model = transformers.BertModel.from_pretrained(sentences).eval()
    model.name_or_path = name
    packed = tmp_path / "packed"
    deepcomp.hf.save_pretrained(model, packed, bits=None)
    assert main(["decompress", str(packed), str(packed / "model.safetensors")]) == 0
    assert torch.equal(embed(packed), embed(sentences))
    loaded = deepcomp.hf.from_pretrained(packed, layers="dense")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # all is there again
        deepcomp.hf.save_pretrained(loaded, tmp_path / "again", bits=None)
    again = {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*")}
    assert {*again, Path("model.safetensors")} == {
        path.relative_to(packed) for path in packed.rglob("*")
    }


@pytest.mark.parametrize("sentences", ["0_Transformer"], indirect=True)
def test_of_a_model_that_is_a_part_the_other_parts_are_said_to_be_missing(sentences, tmp_path):
    model = transformers.BertModel.from_pretrained(sentences / "0_Transformer")
    expected = r"not copied: the other parts in .*sentences \(dcz compress takes that folder"
    with pytest.warns(UserWarning, match=expected):
        deepcomp.hf.save_pretrained(model, tmp_path / "packed")
    assert (tmp_path / "packed" / "tokenizer.json").exists()


def test_weights_in_other_formats_are_not_copied_and_named(tmp_path):
    model, source = make(), tmp_path / "source"
    model.save_pretrained(source)
    for name in ("pytorch_model.bin", "onnx/model.onnx"):
        write(source / name, "weights")
    model = transformers.BertModel.from_pretrained(source)
    with pytest.warns(UserWarning, match="source: not copied: onnx/, pytorch_model.bin$"):
        deepcomp.hf.save_pretrained(model, tmp_path / "packed")
    assert sorted(os.listdir(tmp_path / "packed")) == ["config.json", "model.dcz"]


def test_what_is_given_takes_the_place_of_what_is_beside_the_config(tmp_path):
    source = tmp_path / "source"
    make().save_pretrained(source)
    write(source / "tokenizer.json", "old")
    write(source / "vocab.txt", "old")
    model = transformers.BertModel.from_pretrained(source)
    write(source / "adapter_config.json", "{}")  # has been merged
    model.config.id2label = {0: "yes", 1: "no"}

    class Tokenizer:
        def save_pretrained(self, folder):
            write(Path(folder) / "tokenizer.json", "new")

    packed = tmp_path / "packed"
    deepcomp.hf.save_pretrained(model, packed, tokenizer=Tokenizer())
    assert (packed / "tokenizer.json").read_text() == "new"
    assert (packed / "vocab.txt").read_text() == "old"
    loaded = deepcomp.hf.from_pretrained(packed)
    assert loaded.config.id2label == {0: "yes", 1: "no"}


def test_a_config_cannot_name_a_folder_whose_files_would_be_copied(tmp_path):
    write(tmp_path / "private" / "config.json", "{}")
    write(tmp_path / "private" / "secret.txt", "secret")
    deepcomp.hf.save_pretrained(make(), tmp_path / "stranger")
    path = tmp_path / "stranger" / "config.json"
    settings = json.loads(path.read_text()) | {"_name_or_path": str(tmp_path / "private")}
    write(path, settings | {"name_or_path": str(tmp_path / "private")})
    loaded = deepcomp.hf.from_pretrained(tmp_path / "stranger", layers="dense")
    deepcomp.hf.save_pretrained(loaded, tmp_path / "mine")
    assert sorted(os.listdir(tmp_path / "mine")) == ["config.json", "model.dcz"]


class Head(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def twice_the_answer(model):
    head = Head(32, 60)
    head.load_state_dict(model.cls.predictions.decoder.state_dict())
    model.cls.predictions.decoder = head


def other_activation(model):
    model.bert.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()


def extra_head(model):
    model.head = torch.nn.Linear(32, 3)


def extra_parameter(model):
    model.bert.temperature = torch.nn.Parameter(torch.ones(1))


def fewer_layers(model):
    del model.bert.encoder.layer[1]


def other_size(model):
    model.config.intermediate_size = 65


def low_rank(model):
    deepcomp.factorize(model, rank=4)


CHANGES = {
    twice_the_answer: r"'cls\.predictions\.decoder': expected torch.*Linear, .*, found .*\.Head:",
    other_activation: r"intermediate_act_fn': expected .*GELU.*, found .*\.ReLU: from_pretrained",
    extra_head: r"layer 'head': expected nothing, .*, found torch\.nn",
    extra_parameter: r"tensor 'bert\.temperature': expected nothing, .*, found shape \[1\]",
    fewer_layers: r"layer 'bert\.encoder\.layer\.1': expected .*BertLayer, .*, found nothing",
    other_size: r"expected shape \[65, 32\], as BertForMaskedLM has .*, found shape \[64, 32\]",
    low_rank: r"layer '.*': expected torch.*Linear, .*, found ",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_would_be_loaded_as_another_is_not_saved(tmp_path, change):
    model = make("BertForMaskedLM", tie_word_embeddings=False)
    change(model)
    with pytest.raises(ValueError, match=CHANGES[change]):
        deepcomp.hf.save_pretrained(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_what_compress_folds_is_no_other_model(tmp_path):
    model = make("BertForMaskedLM")
    prune.l1_unstructured(model.cls.predictions.transform.dense, "weight", 0.5)
    deepcomp.share_weights(model, bits={"*.layer.*": 4})
    deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    loaded = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    with torch.inference_mode():
        assert torch.allclose(loaded(TOKENS).logits, model(TOKENS).logits, atol=1e-6)


def test_a_model_with_an_adapter_beside_it_is_not_loaded_without(tmp_path):
    deepcomp.hf.save_pretrained(make(), tmp_path)
    write(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(ValueError, match=r"adapter_config\.json: an adapter of PEFT, .*merge"):
        deepcomp.hf.from_pretrained(tmp_path)


def test_a_folder_with_shards_of_another_model_is_not_saved_into(tmp_path):
    make().save_pretrained(tmp_path / "source")
    deepcomp.compress_checkpoint(tmp_path / "source", tmp_path / "packed")
    loaded = deepcomp.hf.from_pretrained(tmp_path / "packed")
    with pytest.raises(ValueError, match="packed: has a model in several files: give another"):
        deepcomp.hf.save_pretrained(loaded, tmp_path / "packed")


def test_a_tokenizer_that_cannot_be_saved_leaves_the_folder_as_it_was(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            write(Path(folder) / "tokenizer.json", "half")
            raise OSError("no more")

    deepcomp.hf.save_pretrained(make(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match="no more"):
        deepcomp.hf.save_pretrained(make(num_labels=7), tmp_path, tokenizer=Tokenizer())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_buffers_that_older_versions_saved_are_read_and_not_unexpected(tmp_path):
    model = make()
    deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    state = deepcomp.load(tmp_path / "model.dcz").state_dict()
    name = "embeddings.position_ids"
    assert name not in state
    other = torch.arange(39, -1, -1)[None]
    deepcomp.save(state | {name: other}, tmp_path / "model.dcz")
    loaded = deepcomp.hf.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_buffer(name), other)
    deepcomp.save(state | {name: other[:, :9]}, tmp_path / "model.dcz")
    with pytest.raises(RuntimeError, match=r"position_ids: expected shape \[1, 40\], found \[1, 9"):
        deepcomp.hf.from_pretrained(tmp_path)
