# make demo | test | nightly | check | bench | bench-long NAME=measurement
#
# Each target makes its own virtual environment when there is none, installs what it needs, and is quick the second time.
#   PYTHON=python3.12 make demo                     another Python (3.11 or newer)
#   TORCH="torch==2.13.0 --index-url URL" make demo another build of PyTorch (CPU or CUDA), see README
#   VENV=path make demo                             another place for the environment
# pip's own variables (PIP_INDEX_URL, PIP_FIND_LINKS, ...) work as always.

VENV ?= .venv
TORCH ?= torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SAY := printf '\n== %s\n'

.PHONY: demo test nightly check bench bench-long
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	@$(SAY) "wenlu demo | 运行演示"
	$(BIN)/wenlu demo

test: $(VENV)/.dev
	@$(SAY) "tests | 测试"
	$(BIN)/python -m pytest

nightly: $(VENV)/.dev
	@$(SAY) "all tests, with their large numbers | 全部测试（大样本）"
	$(BIN)/python -m pytest --nightly

check: $(VENV)/.dev
	@$(SAY) "format, lint, types, layers, architecture | 格式、规范、类型、分层、架构"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/architecture

# Quick measurements, ten minutes at most in all; each prints ratios to a peer measured beside it.
bench: $(VENV)/.dev
	@set -e; for file in benchmarks/[!_]*.py; do $(SAY) "$$file"; $(BIN)/python "$$file"; done

# One long measurement, cell by cell; a finished cell is kept in bench-results/ and a second call goes on from there.
bench-long: $(VENV)/.dev
	@if [ ! -f "benchmarks/$(NAME).py" ]; then \
		echo "make bench-long NAME=one of: $$(cd benchmarks && ls [!_]*.py | sed 's/\.py$$//' | tr '\n' ' ')"; exit 2; fi
	$(BIN)/python benchmarks/$(NAME).py --long

# ---- the environment: three steps, each with a stamp ----

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Wenlu needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not. Name one: PYTHON=/path/to/python3.11 make ..."; \
		echo "文炉需要 Python 3.11 或更新版本，而 $(or $(PYTHON),python3) 不是。请指定：PYTHON=/路径/python3.11 make ..."; \
		exit 1; fi
	@$(SAY) "making the virtual environment $(VENV) with $(PYTHON) | 创建虚拟环境"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"; \
		echo "创建虚拟环境失败；Debian 和 Ubuntu 请先执行 apt install python3-venv"; exit 1; }

# torch comes first and alone, so that TORCH= chooses its build; the other steps then leave it as it is.
ifneq ($(shell cat $(VENV)/.torch 2>/dev/null),$(strip $(TORCH)))
.PHONY: $(VENV)/.torch
endif
$(VENV)/.torch: | $(VENV)/bin/python
	@$(SAY) "installing $(TORCH), a few minutes | 安装 PyTorch，需要几分钟"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt $(TORCH)
	@echo '$(strip $(TORCH))' > $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml constraints.txt
	@$(SAY) "installing Wenlu and what it needs | 安装文炉及其依赖"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) install -q -c $(VENV)/constraints.txt -e ".[data]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	@$(SAY) "installing Wenlu and the tools for its development | 安装文炉及开发工具"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(PIP) install -q -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $(VENV)/.core $@
