"""Fuzz one target: ``python fuzz/worker.py TARGET FOLDER [libFuzzer's options]``, as run.py does.

With a file in place of the folder of inputs, this input alone is run.
"""

import ctypes
import gc
import hashlib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import atheris

# Python's branches are counted too, but not where they teach nothing: structure.py knows the
# format, and `huffman` has next to none. Without it half as many inputs again are run.
IS_STRUCTURED = sys.argv[1] == "structure"
IS_COUNTED = sys.argv[1] in ("file", "section", "state_dict")
with atheris.instrument_imports(include=["deepcomp"]) if IS_COUNTED else nullcontext():
    import seeds
    import structure
    import targets

    if sys.argv[1] == "state_dict":  # the others need no torch
        import states

        targets.TARGETS["state_dict"] = states.load


MUTATOR = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint
)


def structure_mutator(library):
    """Return structure.mutate as libFuzzer calls a mutator."""

    def mutate_bytes(data, max_size):
        room = ctypes.create_string_buffer(bytes(data), max(max_size, len(data), 1))
        size = library.LLVMFuzzerMutate(room, ctypes.c_size_t(len(data)), ctypes.c_size_t(max_size))
        return room.raw[:size]

    def mutate(pointer, size, max_size, seed):
        data = structure.mutate(ctypes.string_at(pointer, size), max_size, seed, mutate_bytes)
        ctypes.memmove(pointer, data, len(data))
        return len(data)

    return MUTATOR(mutate)


def main():
    preloaded = os.environ.pop("LD_PRELOAD").split(":")[0]  # what is started from here needs none
    library = ctypes.PyDLL(preloaded)
    library.dc_show_counters()
    target = sys.argv.pop(1)
    if Path(sys.argv[1]).is_dir():
        for data in seeds.seeds(target):
            Path(sys.argv[1], hashlib.sha1(data).hexdigest()).write_bytes(data)
    if IS_STRUCTURED:
        mutator = structure_mutator(library)
        library.dc_use_mutator(mutator)
    atheris.Setup(sys.argv, targets.TARGETS[target])
    gc.freeze()
    atheris.Fuzz()


if __name__ == "__main__":
    main()
