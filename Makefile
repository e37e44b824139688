# Every target sets up the virtual environment by itself. Another Python beside the first:
#   make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?= -n 2
BENCH_FLAGS ?=
LARGE_FLAGS ?=
# make fuzz: seconds, processes, and an input to be run again
TIME ?= 60
JOBS ?= 2
INPUT ?=
# make mutants: parts of the paths of files, to make only the faults in these
ONLY ?=

PY := $(abspath $(VENV))/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# The script, not `python -m pytest`: that one puts the current folder before PYTHONPATH.
PYTEST := $(abspath $(VENV))/bin/pytest
SOURCES := setup.py $(wildcard deepcomp/_native/*.pyx deepcomp/_native/*.px[di] deepcomp/_native/*.h)
MODULES := $(basename $(notdir $(wildcard deepcomp/_native/*.pyx)))
DEBUG := build/debug/lib$(patsubst .venv%,%,$(notdir $(VENV)))
ASAN := build/asan/lib$(patsubst .venv%,%,$(notdir $(VENV)))

# Stamps. Each gets the time at which its work began: an edit during the work is not missed.
INSTALLED := $(VENV)/installed.stamp
TEST_INSTALLED := $(VENV)/test.stamp
NATIVE := $(VENV)/native.stamp
DEBUG_BUILT := $(DEBUG)/built.stamp
ASAN_BUILT := $(ASAN)/built.stamp
FUZZER := $(ASAN)/fuzzer.so
DOCS_INSTALLED := $(VENV)/docs.stamp
# `force` if a module is missing all the same, under the folder $(1)
unless_all_there = $(if $(filter-out \
	$(basename $(basename $(notdir $(wildcard $(1)/deepcomp/_native/*.so)))),$(MODULES)),force)

# The targets alone decide which build and which kernels are used.
unexport PYTHONPATH DEEPCOMP_DEBUG DEEPCOMP_SANITIZE DEEPCOMP_KERNELS

.PHONY: help demo test test-asan fuzz mutants bench bench-large docs lint format build clean force

help:
	@echo "make demo    run examples/quickstart.py"
	@echo "make test    tests and doctests, three times: release, debug build, NumPy twins"
	@echo "make test-asan  tests, with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make fuzz    fuzzers, in the same build, for TIME=60 seconds with JOBS=2 processes"
	@echo "make mutants  deliberate faults, one at a time: do the tests notice? (ONLY='sections.py scatter.h')"
	@echo "make bench   benchmarks, on one core with one thread (BENCH_FLAGS='-k name')"
	@echo "make bench-large  a checkpoint of two billion parameters, 10 GB of disk (LARGE_FLAGS='--scale 0.1')"
	@echo "make docs    the documentation site, into build/docs"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format and repair the Python files"
	@echo "make build   sdist and wheel into dist/"
	@echo "make clean   remove what was built; the virtual environment stays"

demo: $(NATIVE)
	$(PY) examples/quickstart.py

test: $(NATIVE) $(TEST_INSTALLED) $(DEBUG_BUILT)
	@echo "=== tests 1/3: release build, native kernels"
	@$(call expect,native,False)
	$(PYTEST) $(PYTEST_FLAGS) --doctest-modules deepcomp tests
	@echo "=== tests 2/3: debug build (bounds checked), native kernels"
	@$(call copy_python,$(DEBUG))
	@export PYTHONPATH=$(abspath $(DEBUG)); $(call expect,native,True)
	cd build && PYTHONPATH=$(abspath $(DEBUG)) $(PYTEST) $(PYTEST_FLAGS) -m 'not browser' -c ../pyproject.toml \
		--rootdir .. --doctest-modules $(abspath $(DEBUG))/deepcomp ../tests
	@echo "=== tests 3/3: release build, NumPy twins"
	@export DEEPCOMP_KERNELS=reference; $(call expect,reference,False)
	DEEPCOMP_KERNELS=reference $(PYTEST) $(PYTEST_FLAGS) -m 'not browser' --doctest-modules deepcomp tests

# Put the Python files beside the native modules in the folder $(1).
copy_python = find $(1) -type f ! -name '*.so' ! -name '*.stamp' -delete; \
	tar cf - --exclude='*.so' --exclude=__pycache__ deepcomp | tar xf - -C $(1)

# Python itself is not built with the sanitizers: their libraries are loaded before it (and
# libstdc++, which AddressSanitizer wants to find), after $(1), which counts for the fuzzer. What
# Python leaves behind at its end is no leak of ours.
GCC ?= gcc
library = $(shell $(GCC) -print-file-name=$(1))
sanitized = cd build && PYTHONPATH=$(abspath $(ASAN)) \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1:verify_asan_link_order=0:quarantine_size_mb=16 \
	UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1 \
	LD_PRELOAD=$(abspath $(1)):$(call library,libasan.so):$(call library,libubsan.so):$(call library,libstdc++.so)

test-asan: $(TEST_INSTALLED) $(ASAN_BUILT)
	@$(call copy_python,$(ASAN))
	@$(call sanitized,$(ASAN)/hooks.so) $(PY) -c 'import deepcomp._native.huffman as m; \
		print(m.__file__); assert m.__file__.startswith("$(abspath $(ASAN))")'
	$(call sanitized,$(ASAN)/hooks.so) $(PY) $(PYTEST) $(PYTEST_FLAGS) \
		-m 'not browser' -c ../pyproject.toml --rootdir .. ../tests

fuzz: $(TEST_INSTALLED) $(ASAN_BUILT) $(FUZZER)
	@$(call copy_python,$(ASAN))
	$(call sanitized,$(FUZZER)) $(PY) ../fuzz/run.py \
		$(if $(INPUT),--input $(abspath $(INPUT)),--time $(TIME) --jobs $(JOBS))

mutants: $(TEST_INSTALLED)
	$(PY) tests/mutants/run.py $(ONLY)

# Fail unless the tests will import the build that they are meant for. Like the tests of the debug
# build it runs in build/: what a test starts with `python -c` looks into the current folder first.
expect = cd build && $(PY) -c 'import deepcomp._kernels as k; info = k.build_info(); \
	print(k.__file__, info); assert (info["kernels"], info["debug"]) == ("$(1)", $(2))'

bench: export OMP_NUM_THREADS = 1
bench: export MKL_NUM_THREADS = 1
bench: export OPENBLAS_NUM_THREADS = 1
bench: $(NATIVE) $(TEST_INSTALLED)
	$$(taskset -c 0 true 2>/dev/null && echo taskset -c 0) \
		$(PYTEST) benchmarks --benchmark-only $(BENCH_FLAGS)

# The extra `ray` alone is not installed with the others: it takes 200 MB.
bench-large: export OMP_NUM_THREADS = 1
bench-large: $(NATIVE) $(TEST_INSTALLED)
	$(PIP) install -c constraints.txt ray
	$(PY) benchmarks/large.py $(LARGE_FLAGS)

# Every warning is an error, and every link within the site is followed.
docs: $(NATIVE) $(DOCS_INSTALLED)
	$(PY) -m sphinx -q -W --keep-going -n docs build/docs
	@echo "build/docs/index.html"

lint: $(TEST_INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(TEST_INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

build: $(TEST_INSTALLED)
	rm -rf dist
	$(VENV)/bin/pyproject-build --no-isolation

clean:
	rm -rf build dist deepcomp.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f deepcomp/_native/*.so .venv*/*.stamp $(INSTALLED) $(NATIVE)
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt setup.py
	@$(PIP) --version >/dev/null 2>&1 || { $(check_python) && rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@touch $@.begun
	$(PIP) install -c constraints.txt cython setuptools wheel
	$(PIP) install -c constraints.txt --no-build-isolation $(EDITABLE) -e '.[torch]' scikit-learn safetensors
	@mv $@.begun $@

# With a path that Python searches, not with a finder: that would come after the current folder, and
# beside a clone called deepcomp, Python would take the clone for the package.
EDITABLE := --config-settings editable_mode=compat

check_python = { $(PYTHON) -c 'import ensurepip, os, sys, sysconfig; sys.exit(sys.version_info < (3, 10) \
	or not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	|| { echo "$(PYTHON) must be CPython 3.10 or newer, with venv and the C headers" \
	"(on Debian: the packages python3-venv and python3-dev)"; exit 1; }; }

# The packages of extras alone: to install the extras themselves would build the package again.
packages_of = $$($(PY) -c 'import sys; from importlib.metadata import requires; \
	extra = lambda r: r.partition("extra ==")[2].strip(" \"\x27"); \
	print(*(r.partition(";")[0] for r in requires("deepcomp") if extra(r) in sys.argv))' $(1))

$(TEST_INSTALLED): $(INSTALLED)
	@touch $@.begun
	$(PIP) install -c constraints.txt $(call packages_of,test bench dev)
	@mv $@.begun $@

$(DOCS_INSTALLED): $(INSTALLED)
	@touch $@.begun
	$(PIP) install -c constraints.txt $(call packages_of,docs)
	@mv $@.begun $@

# The editable install may have built the native modules just now: then nothing is left to do.
$(NATIVE): $(INSTALLED) $(SOURCES) $(call unless_all_there,.)
	@touch $@.begun
	@changed=$$(find $(SOURCES) -newer $(INSTALLED)); \
	for module in $(MODULES); do ls deepcomp/_native/$$module.*.so >/dev/null 2>&1 || changed=$$module; done; \
	if [ -n "$$changed" ]; then \
		echo "building the native modules"; $(PY) setup.py -q build_ext --inplace; fi
	@mv $@.begun $@

$(DEBUG_BUILT): $(INSTALLED) $(SOURCES) $(call unless_all_there,$(DEBUG))
	rm -rf $(DEBUG)
	@mkdir -p $(DEBUG)
	@touch $@.begun
	DEEPCOMP_DEBUG=1 $(PY) setup.py -q build_ext --build-lib $(DEBUG)
	@mv $@.begun $@

$(ASAN_BUILT): $(INSTALLED) $(SOURCES) fuzz/hooks.c $(call unless_all_there,$(ASAN))
	rm -rf $(ASAN)
	@mkdir -p $(ASAN)
	@touch $@.begun
	CC=$(GCC) DEEPCOMP_SANITIZE=1 $(PY) setup.py -q build_ext --build-lib $(ASAN)
	$(GCC) -O2 -Wall -Wextra -shared -fPIC fuzz/hooks.c -o $(ASAN)/hooks.so
	@mv $@.begun $@

# The libFuzzer that comes with atheris, and in front of it what counts the branches.
$(FUZZER): $(ASAN_BUILT)
	$(PIP) install -c constraints.txt atheris
	$(GCC) -O2 -Wall -Wextra -shared -fPIC fuzz/hooks.c -o $@ -Wl,-z,muldefs -Wl,--whole-archive \
		$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libclang_rt.fuzzer_no_main.a \
		-Wl,--no-whole-archive -lstdc++ -lpthread -lm -ldl
