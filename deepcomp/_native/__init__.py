"""Compiled modules: the kernels, and what they and the files need of the system."""

MISSING = (
    "deepcomp's native modules are missing: install the package with 'pip install .', build "
    "them in place with 'python setup.py build_ext --inplace', or start Python outside the "
    "checkout, if it is installed"
)
