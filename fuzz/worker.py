"""Fuzz one target: ``python fuzz/worker.py TARGET FOLDER [libFuzzer's options]``, as run.py does.

With a file in place of the folder of inputs, this input alone is run.
"""

import ctypes
import gc
import hashlib
import os
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["deepcomp"]):
    import structure
    import targets


def main():
    library = os.environ.pop("LD_PRELOAD").split(":")[0]  # what is started from here needs none
    ctypes.CDLL(library).dc_show_counters()
    target = sys.argv.pop(1)
    if Path(sys.argv[1]).is_dir():
        for data in targets.seeds(target):
            Path(sys.argv[1], hashlib.sha1(data).hexdigest()).write_bytes(data)
    mutator = None
    if target == "structure":

        def mutator(data, max_size, seed):
            return structure.mutate(data, max_size, seed, atheris.Mutate)

    atheris.Setup(sys.argv, targets.TARGETS[target], custom_mutator=mutator)
    gc.freeze()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
