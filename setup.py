"""Build the native modules: every deepcomp/_native/*.pyx is one extension.

With DEEPCOMP_DEBUG=1 they check bounds, and are built under build/debug beside the release build.
With DEEPCOMP_SANITIZE=1 they carry AddressSanitizer and UndefinedBehaviorSanitizer (build/asan).
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

DEBUG = os.environ.get("DEEPCOMP_DEBUG", "0") not in ("", "0")
SANITIZE = os.environ.get("DEEPCOMP_SANITIZE", "0") not in ("", "0")

directives = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    "freethreading_compatible": True,
    "show_performance_hints": not DEBUG,  # else one for each bounds check
}

# Portable code only: faster paths are chosen at run time (deepcomp/_native/isa.h). Without
# contraction a*b+c rounds the same way on every machine, so the same model gives the same file.
compile_args = []
if sys.platform != "win32":
    compile_args = ["-ffp-contract=off", "-Wall", "-Wextra"]
    compile_args += ["-O1", "-g"] if DEBUG or SANITIZE else ["-O3", "-g0"]
sanitizers = []
if SANITIZE:  # trace-pc: fuzz/hooks.c tells the fuzzer which branches an input reached
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compile_args += ["-fno-omit-frame-pointer", "-fsanitize-coverage=trace-pc"]
build_base = "build/asan" if SANITIZE else "build/debug" if DEBUG else "build"

native = Path("deepcomp/_native")
headers = sorted(p.as_posix() for p in native.iterdir() if p.suffix in (".h", ".pxd", ".pxi"))
extensions = [
    Extension(
        f"deepcomp._native.{source.stem}",
        [source.as_posix()],
        include_dirs=[native.as_posix()],
        depends=headers,
        extra_compile_args=compile_args + sanitizers,
        extra_link_args=sanitizers,
        define_macros=[("DEEPCOMP_DEBUG", "1")] if DEBUG else [],
    )
    for source in sorted(native.glob("*.pyx"))
]

setup(
    ext_modules=extensions,
    options={
        "build": {"build_base": build_base},
        "build_ext": {  # setuptools takes the build_ext of Cython, which knows .pyx
            "cython_directives": directives,
            "cython_c_in_temp": True,  # no generated C among the sources, nor in the sdist
            "force": True,  # the C goes by time stamps and would miss a changed directive
        },
    },
)
