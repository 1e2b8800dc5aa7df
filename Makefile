# Every target sets up .venv by itself, and does it again only when the pins change.

PYTHON ?= python3
EFFORT ?= quick
DEVICE ?= cpu
RESULTS ?= results
PAGE ?= $(RESULTS)/report.html

BIN := .venv/bin
READY := .venv/ready

.PHONY: bench learn tables report test check format clean help

bench: $(READY)  ## measure everything (EFFORT=quick|standard|full, DEVICE=cpu|cuda|all) and write the page
	@trap : INT; \
	$(BIN)/python -m pytest suites --benchmark-only --benchmark-quiet --device $(DEVICE) --effort $(EFFORT) --results $(RESULTS) -q; \
	status=$$?; case $$status in 0|1|2|10) $(BIN)/python -m report --results $(RESULTS) --output $(PAGE);; esac && exit $$status

learn: $(READY)  ## train cnn and lenet5 on handwritten digits with tape, graph and graph_replay
	@$(BIN)/python -m suites.learn

tables: $(READY)  ## write anew what the page says of writing models and of mistakes, by running them
	@$(BIN)/python -m suites.expressing --json $(RESULTS)/tables/expressing.json
	@$(BIN)/python -m suites.mistakes --json $(RESULTS)/tables/mistakes.json

report: $(READY)  ## write the page again from the newest stored run
	@$(BIN)/python -m report --results $(RESULTS) --output $(PAGE)

test: $(READY)  ## run the tests, and every benchmark once, untimed; what measures runs by itself
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n auto --dist loadfile tests suites --ignore tests/alone
	@$(BIN)/python -m pytest -q tests/alone

check: $(READY)  ## formatting, lint, strict types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY)  ## put the code into its form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove .venv and caches; results stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

$(READY): constraints.txt pyproject.toml
	@echo "setting up .venv (once; again only when constraints.txt or pyproject.toml change)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off --no-compile \
		-c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # pip would on one core; some files are no Python, on purpose
	@touch $(READY)
