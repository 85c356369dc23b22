# Every target sets up what it needs. The first run downloads; later ones are
# quick. `make PYTHON=/path/to/python` chooses the interpreter (3.11 or newer).

PYTHON = python3
TOX = .tox/tool/bin/python -m tox
# The environment of tests, demo and benchmarks, with the project in it as it
# stands in this directory.
ENVIRONMENT = .venv/ready

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test check lint format types docs news wheel bench clean

help:
	@echo 'make demo    capture on lo, show the pcap; then all buses and sinks'
	@echo 'make test    every test (T=pcapdaemon.test.test_x for some)'
	@echo 'make check   lint, types, docs, news and wheel'
	@echo 'make bench   the benchmarks and their report; as root (B=storm for some)'
	@echo 'make lint | format | types | docs | news | wheel | clean'

demo: $(ENVIRONMENT)
	@.ci/prepare programs demo
	@.venv/bin/python demo/demo.py

test: $(ENVIRONMENT)
	@.ci/prepare programs tests
	@$(TOX) run -qq --skip-pkg-install -e tests $(if $(T),-- $(T))

check: lint types docs news wheel

lint types docs news wheel: .tox/tool/ready
	@$(TOX) run -q -e $@

format: $(ENVIRONMENT)
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

# BENCH_QUICK=1: see that all work, in a report of its own under build.
bench: $(ENVIRONMENT)
	@.ci/prepare programs bench
	@.venv/bin/python -m benchmarks $(if $(BENCH_QUICK),--quick) $(B)

$(ENVIRONMENT): .tox/tool/ready setup.cfg pyproject.toml
	@echo 'make: setting up .venv'
	@$(TOX) run -q --notest -e tests
	@touch $@

.tox/tool/ready: .ci/prepare
	@.ci/prepare tox '$(PYTHON)' .tox/tool
	@touch $@

clean:
	rm -rf .tox .venv .mypy_cache .ruff_cache .hypothesis _trial_temp* build dist \
		docs/_build demo-captures *.egg-info twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
