"""The folder `formats`: its independent decoder, and the writer of its test vectors."""

import importlib.util
import sys
from pathlib import Path

FORMATS = Path(__file__).parents[1] / "formats"


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


dcz_decoder = _module(FORMATS / "dcz_decoder.py")
writer = _module(FORMATS / "vectors" / "writer.py")
