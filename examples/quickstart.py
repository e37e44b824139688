"""Train, prune, retrain, share and save a small network, then open the file in a fresh process.

    python examples/quickstart.py [--output DIR]

Takes some seconds on a CPU. Needs the extras torch and bench (scikit-learn, safetensors).
"""

import argparse
import functools
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import deepcomp
from deepcomp.cli import inspect_main

KEPT = 0.1
BITS = 5


def make_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels, for training and for the test: 1,437 and 360 digits of 8x8."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x / 16, y, test_size=0.2, stratify=y, random_state=0
    )
    images = [torch.tensor(part, dtype=torch.float32) for part in (x_train, x_test)]
    return images[0], torch.tensor(y_train), images[1], torch.tensor(y_test)


def train(model: nn.Module, epochs: int, masks: dict[str, Tensor] | None = None) -> None:
    """Train; where a mask is given, only the weights it keeps. The others stay exactly zero."""
    x, y, _, _ = digits()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            with torch.no_grad():
                for name, mask in (masks or {}).items():
                    model.get_parameter(name).masked_fill_(~mask, 0)


def prune(model: nn.Module) -> dict[str, Tensor]:
    """Set the smallest weights of the whole model to zero; return what is kept.

    With ``bits=None`` nothing is shared: compress prunes, and keeps the rest to the bit.
    """
    pruned = deepcomp.compress(model, bits=None, sparsity=1 - KEPT, scope="global")
    pruned.restore(model)
    return {name: p != 0 for name, p in model.named_parameters() if p.dim() > 1}


def evaluate(model: nn.Module) -> tuple[float, str]:
    """Return the accuracy on the test images, and a digest of every bit of the outputs."""
    _, _, x, y = digits()
    with torch.no_grad():
        outputs = model(x)
    accuracy = (outputs.argmax(1) == y).double().mean().item()
    return accuracy, hashlib.sha256(outputs.numpy().tobytes()).hexdigest()


def check_in_fresh_process(path: Path) -> tuple[float, str]:
    """Start this script again: nothing but the file can bring the weights there."""
    command = [sys.executable, __file__, "--check", str(path)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    accuracy, digest = json.loads(answer)
    return accuracy, digest


def check(path: Path) -> None:
    """What the fresh process does: load the file, restore it into a new model, evaluate."""
    model = make_network()
    deepcomp.load(path).restore(model)
    print(json.dumps(evaluate(model)))


def sizes(original: dict[str, Tensor], shared: dict[str, Tensor]) -> dict[str, int]:
    """Return the bytes of the same weights in other formats."""
    found = {}
    for title, weights in {"original": original, "pruned, shared": shared}.items():
        file = io.BytesIO()
        torch.save(dict(weights), file)
        found[f"{title}: torch.save"] = file.getbuffer().nbytes
        plain = safetensors.torch.save(weights)
        found[f"{title}: safetensors"] = len(plain)
        found[f"{title}: safetensors, gzip -9"] = len(gzip.compress(plain, 9))
    return found


def run(folder: Path, epochs: int) -> int:
    torch.manual_seed(0)
    accuracy: dict[str, float] = {}
    model = make_network()
    train(model, epochs)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accuracy["trained"], _ = evaluate(model)

    masks = prune(model)
    accuracy[f"pruned to {KEPT:.0%} of the weights"], _ = evaluate(model)
    train(model, epochs, masks)
    accuracy["retrained with the mask"], _ = evaluate(model)

    # Zeros stay zero; the kept weights of each layer become at most 2**BITS distinct values.
    packed = deepcomp.compress(model, bits=BITS)
    path = folder / "digits.dcz"
    deepcomp.save(packed, path)

    in_memory = make_network()
    packed.restore(in_memory)
    accuracy[f"shared, {BITS} bits"], digest = evaluate(in_memory)
    accuracy["loaded from the file"], digest_of_file = check_in_fresh_process(path)
    if digest_of_file != digest:
        print("the outputs of the loaded model differ from those in memory", file=sys.stderr)
        return 1

    print(f"$ dcz-inspect {path.name}\n")
    inspect_main([str(path)])
    report(accuracy, sizes(original, in_memory.state_dict()), path.stat().st_size)
    return 0


def report(accuracy: dict[str, float], others: dict[str, int], n_bytes: int) -> None:
    print("\ntest accuracy")
    for stage, value in accuracy.items():
        print(f"  {stage:<40}{value:>9.1%}")
    print("  In a fresh process the file gives, bit for bit, the outputs of the model in memory.")
    print("\nbytes" + " " * 46 + ".dcz is smaller by")
    for title, n_other in others.items():
        print(f"  {title:<40}{n_other:>9,}{n_other / n_bytes:>18.1f}x")
    print(f"  {'pruned, shared: .dcz':<40}{n_bytes:>9,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep digits.dcz in DIR")
    parser.add_argument(
        "--epochs", type=int, default=20, help="to train, and to retrain (default: %(default)s)"
    )
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # such small layers only lose by sharing their work out
    if options.check:
        check(options.check)
        return 0
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        return run(options.output, options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), options.epochs)


if __name__ == "__main__":
    sys.exit(main())
