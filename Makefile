.DEFAULT_GOAL := help
.PHONY: help setup demo test test-core test-bank test-docs test-full test-packages check lint format docs bench side-by-side fuzz table causes messages wheelhouse deb lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing and make .venv ready (quick when nothing changed)
	@tools/setup.sh

demo: ## walk through the whole journey: tokens, PIN, certificate, signed order
	@tools/setup.sh demo
	@.venv/bin/ushield demo

test: setup ## every check: ruff, mypy, import walls, shell scripts, pytest
	@tools/check.sh all

test-core: setup ## the tests of tokens, PINs, certificates, signing, verifying and the doctor
	@tools/check.sh core

test-bank: setup ## the tests of the reference bank
	@tools/check.sh bank

test-docs: setup ## run every command and program that the documentation shows
	@tools/check.sh docs

test-full: setup ## as make test, with every point of the large matrices instead of a share of them
	@tools/check.sh full

test-packages: ## make the Debian package and install it in a bare Debian (as root; needs debootstrap's mirror)
	@tools/setup.sh package
	@tools/try_deb.sh

check: setup ## ruff, mypy, import walls, shell scripts and the unit tests: in less than a minute
	@tools/check.sh check

lint: setup ## every check but pytest
	@tools/check.sh lint

format: setup ## sort imports and format the code
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

docs: setup ## build the documentation site in build/site (in .venv-docs); SERVE=1 also serves it on loopback while you edit
	@NO_MKDOCS_2_WARNING=1 tools/side_venv.sh docs mkdocs $(if $(SERVE),serve,build --strict --clean)

bench: setup ## compare speed with the peers (in .venv-bench); WRITE=1 also writes docs/benchmarks.md and .svg; ONLY=diagnosis
	@tools/side_venv.sh bench benchmarks $(if $(WRITE),--write) $(if $(ONLY),--only $(ONLY))

side-by-side: setup ## show what tools say of ten broken set-ups (in .venv-bench); WRITE=1 also writes docs/side-by-side.md
	@tools/side_venv.sh bench benchmarks --side-by-side $(if $(WRITE),--write)

fuzz: setup ## fuzz everything that parses untrusted input (in .venv-fuzz); SECONDS=600, TARGETS="cms verify"
	@tools/fuzz.sh --seconds $(or $(SECONDS),60) $(TARGETS)

table: setup ## write the table of docs/tokens.md: what each kind of token can do
	@.venv/bin/python -m tests.contract.table

causes: setup ## write docs/diagnosis.md: what the doctor knows, and how each cause is proved
	@.venv/bin/python -m tests.project.causes

messages: setup ## compile the zh and en texts (.po to .mo)
	@.venv/bin/python hatch_build.py

wheelhouse: ## make dist/wheelhouse: all wheels for a machine without internet, with an SBOM
	@tools/setup.sh package
	@tools/wheelhouse.sh

deb: ## make dist/*.deb for this Debian release, with an SBOM
	@tools/setup.sh package
	@tools/deb.sh

lock: ## pin the dependencies again; FLAGS=--upgrade takes the newest versions allowed
	@tools/lock.sh $(FLAGS)

clean: ## remove .venv, caches and everything built
	@rm -rf .venv .venv-bench .venv-docs .venv-fuzz build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@rm -f ushield_hw/messages/*.mo
	@find ushield_hw tests benchmarks fuzz -name __pycache__ -type d -prune -exec rm -rf {} +
