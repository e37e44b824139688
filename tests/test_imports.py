"""Who may import whom: downwards only, and heavy things at the edge (docs: CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcomp

PACKAGE = Path(deepcomp.__file__).parent

# For each module what it may import of the package at its top level, and whether numpy.
ALLOWED = {
    "errors": (set(), False),
    "records": (set(), False),
    "index": ({"errors", "records"}, False),
    "sections": ({"errors", "records"}, False),
    "files": ({"_native", "errors"}, False),
    "patterns": (set(), False),
    "urls": (set(), False),
    "places": ({"", "errors", "files", "ranges", "urls"}, False),
    "ranges": ({"errors", "files", "urls"}, False),
    "pages": ({"errors", "files", "ranges"}, False),
    "checksums": ({"index", "pages", "records"}, False),
    "limits": ({"errors", "records"}, False),
    "container": (
        {"errors", "files", "index", "limits", "pages", "ranges", "records"},
        False,
    ),
    "writer": (
        {"checksums", "container", "errors", "files", "index", "limits", "pages", "places"}
        | {"records"},
        False,
    ),
    "shards": (
        {"container", "errors", "files", "index", "limits", "ranges", "records", "urls"},
        False,
    ),
    "folders": ({"container", "errors", "job", "shards", "urls"}, False),
    "companions": ({"folders", "job", "places", "shards", "urls"}, False),
    "tables": (set(), False),
    "losses": ({"errors", "tables"}, False),
    "report": (
        {"errors", "index", "records", "container", "sections", "shards", "writer"},
        False,
    ),
    "listing": ({"report", "tables"}, False),
    "notebook": ({"losses", "tables"}, False),
    "figures": ({"huffman", "kept_rows", "sections", "tensor", "values"}, True),
    "page": ({"figures", "model", "page_parts", "report", "tables"}, True),
    "page_parts": ({"figures", "losses", "report", "tables"}, False),
    "plot": ({"", "figures", "model", "report", "tables", "tensor"}, False),
    "_reference": (set(), True),
    "_reference_kmeans": (set(), True),
    "_reference_matmul": ({"_reference"}, True),
    "_kernels": (
        {"_native", "_reference", "_reference_kmeans", "_reference_matmul"},
        False,
    ),
    "prune": ({"_kernels"}, True),
    "relindex": ({"_kernels", "records"}, True),
    "kmeans": ({"_kernels"}, True),
    "sharing": ({"_kernels", "kmeans"}, True),
    "huffman": ({"_kernels", "records", "errors"}, True),
    "counts": ({"_kernels", "huffman", "memory", "prune", "records", "sharing"}, True),
    "plans": ({"counts", "records", "sections", "huffman", "relindex"}, True),
    "encode": ({"counts", "plans", "records", "sections", "huffman", "relindex"}, True),
    "threads": (set(), False),
    "blocks": ({"_kernels", "records", "sections", "errors"}, True),
    "decode": (
        {"_kernels", "blocks", "records", "sections", "errors", "huffman", "threads"},
        True,
    ),
    "kept_rows": ({"blocks", "decode", "records", "sections"}, True),
    "values": ({"decode", "records"}, True),
    "slices": ({"decode", "kept_rows", "records"}, True),
    "entries": ({"_kernels", "decode", "errors", "kept_rows", "records", "sharing"}, True),
    "memory": ({"_kernels"}, True),
    "layouts": ({"_kernels", "decode", "entries", "kept_rows", "memory"}, True),
    "multiply": ({"_kernels", "entries", "layouts", "memory", "threads"}, True),
    "convolution": ({"_kernels", "entries", "layouts", "memory", "threads"}, True),
    "arrays": ({"records", "encode", "decode"}, True),
    "sparse": ({"arrays", "decode"}, True),
    "codebooks": ({"sharing"}, True),
    "rules": ({"arrays", "patterns"}, False),
    "floats": ({"prune", "records"}, True),
    "passes": (set(), True),
    "squares": ({"_kernels", "floats", "losses", "memory", "prune"}, True),
    "cut_passes": (
        {"_kernels", "floats", "losses", "passes", "prune", "records", "squares"},
        True,
    ),
    "codebook_passes": (
        {"_kernels", "floats", "kmeans", "losses", "memory", "passes", "prune", "records"}
        | {"sharing", "squares"},
        True,
    ),
    "pipeline": (
        {"arrays", "codebook_passes", "cut_passes", "encode", "floats", "losses"}
        | {"passes", "prune", "records", "rules", "squares"},
        True,
    ),
    "tensor": ({"errors", "losses", "records", "sections"}, False),
    "csr": ({"errors", "records", "relindex", "tensor", "values"}, True),
    "readback": ({"errors", "tensor"}, False),
    "model": ({"losses", "patterns", "tensor"}, False),
    "compression": ({"losses", "model", "tensor"}, False),
    "storage": (
        {"compression", "container", "errors", "folders", "model", "readback", "records"}
        | {"shards", "tensor", "urls", "writer"},
        False,
    ),
    "extents": ({"arrays", "decode", "places", "records", "urls"}, True),
    "part_tasks": (
        {"codebook_passes", "container", "counts", "cut_passes", "decode", "encode", "errors"}
        | {"extents", "limits", "losses", "passes", "pipeline", "places", "plans", "prune"}
        | {"records", "writer"},
        False,
    ),
    "workers": ({"part_tasks"}, False),
    "job": ({"", "places", "urls"}, False),
    "large_model": ({"arrays", "extents", "importers", "pipeline", "records", "urls"}, False),
    "rounds": (
        {"", "codebook_passes", "counts", "cut_passes", "extents", "large_model", "losses"}
        | {"part_tasks", "passes", "plans", "records", "urls", "workers"},
        False,
    ),
    "large": ({"", "job", "losses", "places", "records", "urls"}, False),
    "hf_models": (set(), False),
    "hf": ({"companions", "compression", "folders", "hf_models", "model", "storage"}, False),
    "difference": ({"decode", "losses", "prune", "records", "squares", "values"}, True),
    "cli": ({"commands", "commands.terminal", "errors", "tables"}, False),
    "__main__": ({"cli"}, False),
    "commands.terminal": (set(), False),
    "commands.settings": ({"commands.terminal"}, False),
    "commands.completion": ({"commands.terminal"}, False),
    "commands.settings_options": ({"commands.settings"}, False),
    "commands.arguments": (
        {"", "listing", "tables", "commands.completion", "commands.settings_options"},
        False,
    ),
    "commands.streams": (
        {"container", "errors", "folders", "shards", "urls", "commands.terminal"},
        False,
    ),
    "commands.compress": (
        {"container", "errors", "limits", "report", "shards", "urls"}
        | {f"commands.{name}" for name in ("settings", "streams", "summary", "terminal")},
        False,
    ),
    "commands.summary": ({"losses", "report", "tables"}, False),
    "commands.large": (
        {"errors", "losses", "tables"}
        | {f"commands.{name}" for name in ("compress", "streams", "summary", "terminal")},
        False,
    ),
    "commands.plan": (
        {"tables", "threads"}
        | {f"commands.{name}" for name in ("compress", "large", "streams", "terminal")},
        False,
    ),
    "estimate": ({"large", "large_model", "part_tasks", "places", "records"}, False),
    "commands.decompress": (
        {"errors", "tables", "commands.streams", "commands.terminal"},
        False,
    ),
    "commands.diff": (
        {"losses", "model", "tables", "tensor", "commands.streams", "commands.terminal"},
        False,
    ),
    "commands.inspect": (
        {"container", "listing", "report", "shards", "tables"}
        | {"commands.streams", "commands.terminal"},
        False,
    ),
    "commands.report": ({"commands.streams", "commands.terminal"}, False),
    "commands.verify": (
        {"errors", "tables"} | {f"commands.{name}" for name in ("inspect", "streams", "terminal")},
        False,
    ),
    "nn.weights": (set(), False),
    "nn.convert": ({"arrays", "decode", "records", "rules", "nn.weights"}, True),
    "nn.sparse": ({"arrays", "decode", "sparse", "nn.convert"}, False),
    "nn.criteria": (set(), False),
    "nn.schedules": (set(), False),
    "nn.ranking": ({"nn.criteria"}, False),
    "nn.order": (set(), False),
    "nn.replace": (set(), False),
    "nn.pruner": (
        {"rules", "nn.convert", "nn.criteria", "nn.order", "nn.ranking", "nn.schedules"},
        False,
    ),
    "nn.shared": (
        {"arrays", "codebooks", "decode", "pipeline", "prune", "rules", "sharing"}
        | {"nn.convert", "nn.replace"},
        True,
    ),
    "nn.trial": ({"arrays", "pipeline", "rules", "tensor"}, False),
    "nn.scan": ({"rules", "nn.trial"}, False),
    "nn.lagrange": ({"pipeline", "nn.trial"}, True),
    "nn.budget": (
        {"compression", "errors", "records", "rules", "storage", "nn.lagrange", "nn.trial"},
        False,
    ),
    "nn.stored": (
        {"convolution", "decode", "entries", "errors", "index", "multiply", "records", "tensor"},
        True,
    ),
    "nn.fixed": (set(), False),
    "nn.ops": ({"convolution", "multiply", "nn.fixed", "nn.stored"}, False),
    "nn.layers": ({"convolution", "nn.fixed", "nn.ops", "nn.stored"}, False),
    "nn.obstacles": ({"nn.layers"}, False),
    "nn.choice": (
        {"_kernels", "nn.layers", "nn.obstacles", "nn.owners", "nn.replace"},
        False,
    ),
    "nn.distillation": (set(), False),
    "nn.owners": (set(), False),
    "nn.factorable": ({"patterns", "nn.owners"}, False),
    "nn.lowrank": ({"arrays", "pipeline", "nn.convert", "nn.factorable", "nn.replace"}, False),
    "nn.resize": ({"nn.replace"}, False),
    "nn.model": ({"nn.choice", "nn.convert", "nn.replace", "nn.resize"}, False),
    "nn.coupling": ({"arrays", "nn.owners"}, False),
    "nn.tracer": ({"nn.coupling"}, False),
    "nn.constants": ({"nn.coupling", "nn.tracer"}, False),
    "nn.probes": ({"nn.coupling"}, False),
    "nn.channels": ({"nn.constants", "nn.coupling", "nn.cutting", "nn.probes"}, False),
    "nn.samples": ({"nn.coupling"}, False),
    "nn.thinet": ({"rules", "nn.convert", "nn.coupling", "nn.cutting", "nn.samples"}, False),
    "nn.cutting": ({"nn.constants", "nn.coupling", "nn.resize"}, False),
    "nn.shrinking": ({"nn.constants", "nn.coupling", "nn.cutting", "nn.probes", "nn.trial"}, False),
    "importers.safetensors": (
        {"arrays", "decode", "files", "ranges", "records", "urls"},
        True,
    ),
    "importers.bitmask": ({"arrays", "decode"}, True),
    "importers.dcz": ({"arrays", "storage"}, False),
    "importers.npz": ({"arrays", "decode", "sparse"}, True),
    "importers.pytorch": (set(), False),
    "importers.han": ({"sparse"}, True),
    "importers.checkpoint": (
        {
            "arrays",
            "container",
            "decode",
            "errors",
            "folders",
            "importers.bitmask",
            "importers.dcz",
            "importers.npz",
            "importers.pytorch",
            "importers.safetensors",
            "places",
            "shards",
            "urls",
        },
        False,
    ),
    "exporters.safetensors": ({"files", "model", "importers.safetensors"}, False),
    "exporters.npz": ({"files", "model"}, False),
    "exporters.checkpoint": (
        {"files", "model", "exporters.npz", "exporters.safetensors"},
        False,
    ),
}


def top_level_imports(path):
    """Yield (module, level) of imports outside functions and TYPE_CHECKING."""
    for node in ast.parse(path.read_text()).body:
        for inner in ast.walk(node) if isinstance(node, ast.Try | ast.If) else [node]:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            if isinstance(inner, ast.Import):
                yield from ((alias.name, 0) for alias in inner.names)
            elif isinstance(inner, ast.ImportFrom) and inner.module:
                yield inner.module, inner.level
            elif isinstance(inner, ast.ImportFrom):
                yield from ((alias.name, inner.level) for alias in inner.names)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_modules_import_downwards_only(name):
    allowed, may_use_numpy = ALLOWED[name]
    path = PACKAGE / f"{name.replace('.', '/')}.py"
    folder = name.rpartition(".")[0]
    for module, level in top_level_imports(path):
        root = module.split(".")[0]
        if level == 0:
            assert root != "deepcomp", f"{path}: absolute import of the package"
            assert root in sys.stdlib_module_names or (
                (root == "numpy" and may_use_numpy) or (root == "torch" and folder == "nn")
            ), f"{path} imports {module}"
        elif folder and level == 1:
            assert f"{folder}.{root}" in allowed, f"{path} imports .{module}"
        else:
            assert {root, module} & allowed or (root == "__version__" and "" in allowed), (
                f"{path} imports .{module}"
            )


def test_every_module_is_in_the_table():
    files = {p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py")}
    names = {".".join(f.parts) for f in files if f.parts[0] != "_native"}
    assert {name for name in names if not name.endswith("__init__")} == set(ALLOWED)


def modules_after(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(result.stdout.split("\n")[-2].split())


def test_loading_and_inspecting_need_neither_numpy_nor_torch(tmp_path):
    path = tmp_path / "m.dcz"
    deepcomp.save(deepcomp.compress({"w": np.eye(30)}), path)
    code = f"from deepcomp.cli import inspect_main\nassert inspect_main([{str(path)!r}]) == 0"
    heavy = {"numpy", "torch", "tqdm", "sklearn", "scipy", "fsspec", "aiohttp"}
    assert not heavy & modules_after(code)
    code = (
        "import deepcomp\n"
        f"packed = deepcomp.load({str(path)!r})\n"
        "assert packed['w'].shape == (30, 30) and packed['w'].density < 0.1\n"
        f"deepcomp.save(packed, {str(path)!r})"
    )
    assert not heavy & modules_after(code)


def test_compressing_arrays_does_not_import_torch():
    code = "import deepcomp, numpy\ndeepcomp.compress({'w': numpy.eye(9)})['w'].to_dense()"
    assert not {"torch", "sklearn", "scipy"} & modules_after(code)


FIRST_CALLS = """
import torch, deepcomp
layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 5))
packed = deepcomp.compress(layers, bits=2)
packed.restore(layers, layers="sparse")
with torch.no_grad():
    layers(torch.ones(1, 3, 6, 6))
layers(torch.ones(1, 3, 6, 6))
layers(torch.ones(7, 3, 6, 6, requires_grad=True)).sum().backward()
with torch.autocast("cpu", torch.bfloat16):
    layers(torch.ones(1, 3, 6, 6))
assert [type(layer).__name__ for layer in layers] == ["SparseConv2d", "Flatten", "SparseLinear"]
"""


def test_calling_a_sparse_layer_does_not_import_the_compiler_of_torch():
    assert not {"torch._dynamo", "sympy"} & modules_after(FIRST_CALLS)


def test_public_names_are_all_there():
    for name in deepcomp.__all__:
        assert getattr(deepcomp, name) is not None
    assert set(deepcomp.__all__) <= set(dir(deepcomp))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = deepcomp.nonsense


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import deepcomp, numpy
packed = deepcomp.compress({"w": numpy.eye(30)})
actions = (
    packed.state_dict, packed["w"].to_torch, lambda: packed.restore(None), lambda: deepcomp.Pruner,
    lambda: deepcomp.share_weights, lambda: deepcomp.shrink, lambda: deepcomp.search,
    lambda: deepcomp.sensitivity, lambda: deepcomp.nn.SparseLinear, lambda: deepcomp.nn.schedules,
    lambda: deepcomp.factorize,
)
for action in actions:
    try:
        action()
    except ImportError as error:
        assert "pip install 'deepcomp[torch]'" in str(error), error
    else:
        raise SystemExit("torch was not needed")
"""


def test_what_needs_torch_names_the_extra():
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)
