"""Call a dense or a sparse layer once in a process of its own and print what it takes, as JSON.

Run by bench_first_call.py: ``python -m benchmarks.first_call sparse``. A plain call, with
gradients, as `model(x)` is. Linux only.
"""

import json
import sys
import time

import torch

import deepcomp

from .peak_memory import memory


def main(kind: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 300))
    packed = deepcomp.compress(model, bits=5, sparsity=0.9)
    before = time.process_time()
    packed.restore(model, layers=kind)
    restored = time.process_time()
    x, modules, nbytes = torch.ones(1, 784), set(sys.modules), memory("VmRSS")
    start = time.process_time()
    y = model(x)
    seconds = time.process_time() - start
    new = set(sys.modules) - modules
    assert type(model[0]).__name__ == {"dense": "Linear", "sparse": "SparseLinear"}[kind]
    expected = torch.nn.functional.linear(x, packed["0.weight"].to_torch(), model[0].bias)
    assert torch.allclose(y, expected, atol=1e-4) and y.requires_grad
    print(json.dumps({
        "seconds": seconds,
        "restore": restored - before,
        "modules": len(new),
        "nbytes": memory("VmRSS") - nbytes,
        "compiler": sorted({"torch._dynamo", "sympy"} & set(sys.modules)),
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
