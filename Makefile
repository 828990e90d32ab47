.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench messages lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing and make .venv ready (quick when nothing changed)
	@tools/setup.sh

demo: setup ## walk through the whole journey: tokens, PIN, certificate, signed order
	@.venv/bin/ushield demo

test: setup ## every check: ruff, mypy, import walls, shell scripts, pytest
	@tools/check.sh all

lint: setup ## every check but pytest
	@tools/check.sh lint

format: setup ## sort imports and format the code
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

bench: setup ## compare speed with the peers (in .venv-bench); WRITE=1 also writes docs/benchmarks.md and .svg
	@tools/bench.sh $(if $(WRITE),--write)

messages: setup ## compile the zh and en texts (.po to .mo)
	@.venv/bin/python hatch_build.py

lock: ## pin the dependencies again; FLAGS=--upgrade takes the newest versions allowed
	@tools/lock.sh $(FLAGS)

clean: ## remove .venv, caches and everything built
	@rm -rf .venv .venv-bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@rm -f ushield_hw/messages/*.mo
	@find ushield_hw tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
