# `make demo` and `make test` need Python >= 3.10, a C++ compiler, cmake and make; the rest is set up
# in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
KERNELS := $(shell find tflite_kernels -name '*.cc' -o -name '*.h' -o -name 'CMake*')
DEMO_ARGS ?=
BUILD_JOBS := $(shell nproc)
FUZZ_SECONDS ?= 300
# A file's tests run in one process: they share what is trained or compressed once.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

.PHONY: setup build demo test test-slow test-fast test-kernels test-sanitize fuzz lint format docs \
        bench test-arm64 clean

setup: $(INSTALLED)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An editable install: Python sources are used in place, the kernels compiled into the package.
$(INSTALLED): setup.cfg setup.py pyproject.toml $(KERNELS) | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo,test]'
	touch $@

build: setup

demo: setup
	$(BIN)/kerasq demo $(DEMO_ARGS)

test: setup test-kernels
	KERASQ_TEST_KERAS=2 $(PYTEST) -m 'not slow'
	KERASQ_TEST_KERAS=3 $(PYTEST) -m 'not slow and not once'

# What `make test` leaves out: long trainings, XLA for all methods, the examples.
test-slow: setup
	KERASQ_TEST_KERAS=2 $(PYTEST) -m slow
	KERASQ_TEST_KERAS=3 $(PYTEST) -m 'slow and not once'

test-fast: setup
	KERASQ_TEST_KERAS=2 $(PYTEST) -m 'not slow'

# The C++ tests need GoogleTest (Debian: libgtest-dev); without it make says so and goes on.
test-kernels:
	@if [ -f /usr/include/gtest/gtest.h ] || [ -d /usr/src/googletest ]; then \
	  cmake -S tflite_kernels --preset host >/dev/null && \
	  cmake --build build/host --parallel $(BUILD_JOBS) && \
	  ctest --test-dir build/host --output-on-failure --no-tests=error; \
	else \
	  echo "C++ tests of the kernels not run: GoogleTest is missing (Debian: libgtest-dev)"; \
	fi

# The same under the sanitizers: of addresses and undefined behaviour, then of threads.
test-sanitize:
	for preset in sanitize thread-sanitize; do \
	  cmake -S tflite_kernels --preset $$preset >/dev/null && \
	  cmake --build build/$$preset --parallel $(BUILD_JOBS) && \
	  ctest --test-dir build/$$preset --output-on-failure --no-tests=error || exit 1; \
	done

# Half of the seconds for the operators in a runtime of the tests (libFuzzer; Debian: clang-14
# libclang-rt-14-dev), half for whole files in a stock runtime. What crashes is kept in build/fuzz.
fuzz: setup
	cmake -S tflite_kernels --preset fuzz >/dev/null
	cmake --build build/fuzz --parallel $(BUILD_JOBS) --target operators_fuzzer
	cmake -S tflite_kernels --preset sanitize >/dev/null
	cmake --build build/sanitize --parallel $(BUILD_JOBS) --target kerasq_tflite
	mkdir -p build/fuzz/corpus
	build/fuzz/fuzz/operators_fuzzer -max_total_time=$$(($(FUZZ_SECONDS) / 2)) -max_len=512 \
	  -timeout=20 -rss_limit_mb=2048 -print_funcs=0 -artifact_prefix=build/fuzz/ \
	  build/fuzz/corpus tflite_kernels/fuzz/corpus
	PYTHONPATH=. $(BIN)/python tflite_kernels/fuzz/files_fuzzer.py \
	  --library build/sanitize/libkerasq_tflite.so --seconds $$(($(FUZZ_SECONDS) / 2))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find tflite_kernels -name '*.cc' -o -name '*.h' | xargs clang-format-14 --dry-run --Werror
	shellcheck .ci/run scripts/*.sh

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find tflite_kernels -name '*.cc' -o -name '*.h' | xargs clang-format-14 -i

# The catalogue page and its plots, from the docstrings and the live code.
docs: setup
	$(BIN)/python docs/build.py

bench: setup
	$(BIN)/python -m kerasq.benchmark.kernels

test-arm64: setup
	PYTHON=$(BIN)/python scripts/test_arm64.sh

clean:
	rm -rf build $(VENV) *.egg-info kerasq/runtime/*.so
