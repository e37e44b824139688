"""Models of transformers: what is loaded from a folder with model.dcz is what was saved."""

import json
import pickle
import sys

import pytest

import deepcomp
import deepcomp.hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
CONFIGS = {
    "BertForSequenceClassification": lambda: transformers.BertConfig(
        **SMALL, intermediate_size=64, max_position_embeddings=40, num_labels=3
    ),
    "BertForMaskedLM": lambda: transformers.BertConfig(
        **SMALL, intermediate_size=64, max_position_embeddings=40
    ),
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(
        **SMALL, intermediate_size=64, num_key_value_heads=2, max_position_embeddings=40
    ),
    "GPT2LMHeadModel": lambda: transformers.GPT2Config(
        vocab_size=60, n_embd=32, n_head=4, n_layer=2, n_positions=40
    ),
}
TIED = {
    "BertForMaskedLM": (
        "cls.predictions.decoder.weight",
        "bert.embeddings.word_embeddings.weight",
    ),
    "GPT2LMHeadModel": ("lm_head.weight", "transformer.wte.weight"),
}
TOKENS = torch.arange(12).reshape(2, 6) * 5 % 60


def make(name):
    torch.manual_seed(0)
    model = getattr(transformers, name)(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as of a trained model: no bias is all zero
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def logits(model):
    with torch.inference_mode():
        return model(TOKENS).logits


def restored(packed, name):
    model = getattr(transformers, name)(CONFIGS[name]()).eval()
    packed.restore(model)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_dense_restored_model(name, tmp_path):
    model = make(name)
    packed = deepcomp.hf.save_pretrained(model, tmp_path, bits=4, sparsity=0.7)
    assert not list(tmp_path.glob("*.safetensors"))
    expected = logits(restored(packed, name))
    assert not torch.equal(expected, logits(model))  # something was lost

    dense = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    assert type(dense) is type(model) and not dense.training
    assert torch.equal(logits(dense), expected)

    sparse = deepcomp.hf.from_pretrained(tmp_path, layers="sparse")
    kinds = {type(module) for module in sparse.modules()}
    assert deepcomp.nn.SparseLinear in kinds
    assert torch.nn.Linear not in kinds
    torch.testing.assert_close(logits(sparse), expected, rtol=1e-5, atol=1e-5)

    auto = deepcomp.hf.from_pretrained(tmp_path, batch=12)
    torch.testing.assert_close(logits(auto), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TIED)
def test_tied_weights_are_stored_once_and_stay_tied(name, tmp_path):
    alias, first = TIED[name]
    model = make(name)
    model.config.tie_word_embeddings = True
    packed = deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    assert {packed.aliases.get(alias), packed.aliases.get(first)} == {None, packed[alias].name}
    loaded = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    assert loaded.get_parameter(alias) is loaded.get_parameter(first)
    assert torch.equal(logits(loaded), logits(model))


def test_weights_that_the_config_ties_but_the_file_does_not_stay_apart(tmp_path):
    model = make("GPT2LMHeadModel")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 1)
    packed = deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    assert not packed.aliases
    loaded = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("name", TIED)
def test_a_file_made_from_the_safetensors_of_transformers_is_a_twin(name, tmp_path):
    from safetensors.torch import load_file

    model = make(name)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert len(set(TIED[name]) & stored.keys()) == 1
    deepcomp.save(stored, tmp_path / "model.dcz")
    loaded = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    assert torch.equal(logits(loaded), logits(model))
    alias, first = TIED[name]
    assert loaded.get_parameter(alias) is loaded.get_parameter(first)


def test_bfloat16_is_kept_and_float32_can_be_asked_for(tmp_path):
    name = "LlamaForCausalLM"
    model = make(name).to(torch.bfloat16)
    model.model.norm.float()  # as models of mixed dtypes have it
    with torch.no_grad():
        model.model.norm.weight += 1e-6
    deepcomp.hf.save_pretrained(model, tmp_path, bits=4, sparsity=0.7)
    loaded = deepcomp.hf.from_pretrained(tmp_path, layers="auto")
    found = {n: p.dtype for n, p in loaded.named_parameters()}
    assert found == {n: p.dtype for n, p in model.named_parameters()}
    sparse = deepcomp.hf.from_pretrained(tmp_path, layers="sparse")
    assert isinstance(sparse.lm_head, deepcomp.nn.SparseLinear)
    model.save_pretrained(tmp_path)
    theirs = type(model).from_pretrained(tmp_path)  # its rotary frequencies are float32
    deepcomp.load(tmp_path / "model.dcz").restore(theirs)
    assert torch.equal(loaded.model.rotary_emb.inv_freq, theirs.model.rotary_emb.inv_freq)

    wide = deepcomp.hf.from_pretrained(tmp_path, layers="sparse", dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert isinstance(wide.lm_head, deepcomp.nn.SparseLinear)
    narrow = deepcomp.hf.from_pretrained(tmp_path, layers="dense").float()
    torch.testing.assert_close(logits(wide), logits(narrow), rtol=1e-5, atol=1e-5)
    assert torch.get_default_dtype() is torch.float32


def test_a_model_whose_code_reads_the_weights_of_its_layers_may_have_sparse_ones(tmp_path):
    config = transformers.T5Config(
        vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        tie_word_embeddings=False, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    deepcomp.hf.save_pretrained(model, tmp_path, bits=4, sparsity=0.7)
    found = {}
    for layers in ("dense", "sparse"):
        loaded = deepcomp.hf.from_pretrained(tmp_path, layers=layers)
        with torch.inference_mode():
            found[layers] = loaded(TOKENS, decoder_input_ids=TOKENS).logits
    assert isinstance(loaded.lm_head, deepcomp.nn.SparseLinear)
    torch.testing.assert_close(found["sparse"], found["dense"], rtol=1e-5, atol=1e-5)


def test_a_model_with_sparse_layers_is_not_saved_by_transformers(tmp_path):
    deepcomp.hf.save_pretrained(make("BertForMaskedLM"), tmp_path, bits=4, sparsity=0.8)
    sparse = deepcomp.hf.from_pretrained(tmp_path, layers="sparse")
    for model in (sparse, sparse.bert, pickle.loads(pickle.dumps(sparse))):
        with pytest.raises(ValueError, match="save the model that layers='dense' gives"):
            model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    dense = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    dense.save_pretrained(tmp_path / "again")
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(logits(again), logits(dense))


def test_buffers_that_no_file_has_get_the_dtype_of_the_model(tmp_path):
    torch.set_default_dtype(torch.bfloat16)  # as from_pretrained of transformers makes models
    try:
        model = transformers.XGLMForCausalLM(
            transformers.XGLMConfig(
                vocab_size=60, d_model=32, ffn_dim=64, attention_heads=4, num_layers=1
            )
        ).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    packed = deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    name = "model.embed_positions.weights"
    assert name not in packed and model.get_buffer(name).dtype is torch.bfloat16
    loaded = deepcomp.hf.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_buffer(name), model.get_buffer(name))
    assert torch.equal(logits(loaded), logits(model))


def test_a_model_is_built_on_the_cpu_whatever_device_is_the_default(tmp_path):
    model = make("LlamaForCausalLM")
    deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    with torch.device("meta"):
        loaded = deepcomp.hf.from_pretrained(tmp_path, layers="dense")
    assert torch.equal(logits(loaded), logits(model))


def test_weights_are_not_initialised_before_they_are_read(tmp_path, monkeypatch):
    model = make("LlamaForCausalLM")
    deepcomp.hf.save_pretrained(model, tmp_path, bits=None)

    def refuse(*arguments, **keywords):
        raise AssertionError("weights are initialised")

    for function in ("normal_", "uniform_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, function, refuse)
    monkeypatch.setattr(transformers.PreTrainedModel, "initialize_weights", refuse)
    with pytest.raises(AssertionError):
        type(model)(model.config)
    assert torch.equal(logits(deepcomp.hf.from_pretrained(tmp_path)), logits(model))


def test_the_generation_config_comes_along(tmp_path):
    model = make("LlamaForCausalLM")
    model.generation_config.max_new_tokens = 7
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 59
    deepcomp.hf.save_pretrained(model, tmp_path, bits=None)
    loaded = deepcomp.hf.from_pretrained(tmp_path)
    assert loaded.generation_config.max_new_tokens == 7
    tokens = loaded.generate(TOKENS[:1], do_sample=False)
    assert torch.equal(tokens, model.generate(TOKENS[:1], do_sample=False))


def test_a_tokenizer_comes_along(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[UNK]", "[PAD]", "sparse", "is", "small"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]"
    )
    model = make("BertForMaskedLM")
    deepcomp.hf.save_pretrained(model, tmp_path, bits=None, tokenizer=tokenizer)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("sparse is tiny")["input_ids"] == [2, 3, 0]
    assert loaded.pad_token == "[PAD]" and loaded.get_vocab() == words


@pytest.fixture
def folder(tmp_path):
    deepcomp.hf.save_pretrained(make("BertForMaskedLM"), tmp_path, bits=None)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_missing_and_unexpected_names_are_errors(folder):
    packed = deepcomp.load(folder / "model.dcz")
    state = packed.state_dict()
    bias = state.pop("bert.embeddings.LayerNorm.bias")
    deepcomp.save(state, folder / "model.dcz")
    with pytest.raises(RuntimeError, match=r"model\.dcz: .*missing.*embeddings\.LayerNorm\.bias"):
        deepcomp.hf.from_pretrained(folder)
    state |= {"bert.embeddings.LayerNorm.bias": bias, "surplus": bias}
    deepcomp.save(state, folder / "model.dcz")
    with pytest.raises(RuntimeError, match=r"model\.dcz: .*not in the model: surplus$"):
        deepcomp.hf.from_pretrained(folder)


def test_other_shapes_are_errors(folder):
    edit_config(folder, vocab_size=61)
    with pytest.raises(RuntimeError, match=r"word_embeddings\.weight: expected shape \[61, 32\]"):
        deepcomp.hf.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.dcz", "config.json"])
def test_a_folder_without_one_of_the_files_is_a_clear_error(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: not found; expected a folder of") as told:
        deepcomp.hf.from_pretrained(folder)
    way = f"(dcz compress {folder} {folder / 'model.dcz'} --bits none makes it, exact)"
    assert (way in str(told.value)) == (name == "model.dcz")


@pytest.mark.parametrize(
    "architectures", [["MyOwnModel"], ["BertConfig"], ["AutoModel"], [], None, [3], ["os"]]
)
def test_only_classes_of_transformers_are_built(folder, architectures):
    edit_config(folder, architectures=architectures)
    with pytest.raises(ValueError, match=r"config\.json: architectures is .*"):
        deepcomp.hf.from_pretrained(folder)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":' * 100_000, "[]", "3", '{"architectures": "BertModel"}']
)
def test_a_config_that_is_none_is_a_value_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: "):
        deepcomp.hf.from_pretrained(folder)


def test_settings_that_cannot_be_are_a_value_error(folder):
    edit_config(folder, hidden_size="many")
    with pytest.raises(ValueError, match=r"config\.json: no config of BertForMaskedLM: "):
        deepcomp.hf.from_pretrained(folder)


def test_code_in_the_folder_or_elsewhere_is_never_run(folder):
    expected = logits(deepcomp.hf.from_pretrained(folder))
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    edit_config(
        folder,
        auto_map={"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model"},
        attn_implementation="someone/attention",
        _attn_implementation="someone/attention",
    )
    assert torch.equal(logits(deepcomp.hf.from_pretrained(folder)), expected)


@pytest.mark.parametrize(
    ("name", "part"),
    [("DetrForObjectDetection", "backbone_config"), ("EncoderDecoderModel", "decoder")],
)
def test_code_of_a_part_of_the_model_is_not_even_asked_for(folder, monkeypatch, name, part):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    auto_map = dict.fromkeys(("AutoBackbone", "AutoModelForCausalLM"), "evil.Model")
    bert = {"model_type": "bert"} | SMALL
    hostile = bert | {"model_type": "vit"} if part == "decoder" else bert
    hostile = hostile | {"auto_map": auto_map, "_name_or_path": str(folder)}
    settings = {"architectures": [name], "encoder": bert, part: hostile}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=f"json: no {name} can be built: ValueError: Unrecognized"):
        deepcomp.hf.from_pretrained(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "someone/backbone", "use_timm_backbone": False},
        {"use_timm_backbone": False},
        {"backbone_kwargs": {"a": 1}},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:someone/x"}},
        {"architecture": "hf-hub:someone/model"},
        {"vision_config": {"model_args": {"checkpoint_path": "evil.pkl"}}},
    ],
)
def test_nothing_is_fetched_by_its_name(folder, monkeypatch, settings):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    edit_config(folder, architectures=["DetrForObjectDetection"], **settings)
    with pytest.raises(
        ValueError, match=r"config\.json: .* timm or the Hub provides are not built"
    ):
        deepcomp.hf.from_pretrained(folder)


@pytest.mark.parametrize(
    "settings",
    [{"hidden_act": "os.system"}, {"vocab_size": 1 << 60}, {"num_attention_heads": 0}],
)
def test_a_model_that_cannot_be_built_is_a_value_error(folder, settings):
    edit_config(folder, **settings)
    with pytest.raises(ValueError, match=r"config\.json: no BertForMaskedLM can be built: "):
        deepcomp.hf.from_pretrained(folder)


def test_max_dense_bytes_is_handed_on(folder):
    with pytest.raises(deepcomp.DczError, match="max_dense_bytes"):
        deepcomp.hf.from_pretrained(folder, max_dense_bytes=1000)


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path):
    class Mine(transformers.BertModel):
        pass

    target = tmp_path / "new"
    for model in (torch.nn.Linear(2, 2), Mine(CONFIGS["BertForMaskedLM"]())):
        with pytest.raises(TypeError, match="expected a model of a class that transformers has"):
            deepcomp.hf.save_pretrained(model, target)
    with pytest.raises(ValueError, match="nothing\\*"):
        deepcomp.hf.save_pretrained(make("BertForMaskedLM"), target, bits={"nothing*": 3})
    assert not target.exists()


def test_a_model_with_a_part_of_timm_is_not_saved(tmp_path, monkeypatch):
    model = make("BertForMaskedLM")
    monkeypatch.setattr(model.config, "backbone_config", {"backbone": "resnet50"}, raising=False)
    with pytest.raises(ValueError, match="backbone is 'resnet50': models with a part that timm"):
        deepcomp.hf.save_pretrained(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_saving_does_not_change_the_model(tmp_path):
    model = make("LlamaForCausalLM")
    before = model.config.to_dict()
    deepcomp.hf.save_pretrained(model, tmp_path)
    assert model.config.to_dict() == before


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'deepcomp\[transformers\]'"):
        deepcomp.hf.from_pretrained(tmp_path)
