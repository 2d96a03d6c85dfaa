# Every target installs what it needs into .venv; nothing else has to be set up.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results-demo

SLURM_PACKAGES := slurmctld slurmd slurm-client slurmdbd munge mariadb-server

.PHONY: demo test test-all lint report bench clean slurm-install slurm-up slurm-down browser-install

.venv/.base: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.test: .venv/.base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

.venv/.dev: .venv/.test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	@touch $@

demo: .venv/.base  ## the main job on bundled images: no download, a few minutes
	$(BIN)/python -m benchmark.run --config slurm/sweeps/demo.toml --results $(RESULTS)

test: .venv/.test  ## the core suite
	$(BIN)/python -m pytest -m "not slow and not slurm and not browser" -n 2 --dist worksteal

test-all: .venv/.test  ## also what is slow, and what needs SLURM where its packages are
	$(BIN)/python -m pytest -m "not slurm" -n 2 --dist worksteal
	$(BIN)/python -m pytest -m slurm

bench: .venv/.test  ## speed: pairs of ours beside the naive way
	$(BIN)/python -m pytest tests/benchmarks -o python_files='bench_*.py' -p no:xdist

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser-install:  ## Debian's Chromium and its driver, for tests of the page; as root
	@which chromium chromedriver >/dev/null || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
	  chromium chromium-driver fonts-dejavu-core; }

slurm-install:  ## Debian's packages for a SLURM on this machine; as root
	@which slurmctld slurmd sbatch slurmdbd munged mariadbd >/dev/null || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(SLURM_PACKAGES); }

slurm-up:  ## a real SLURM of four nodes on this machine, for tests; as root
	$(PYTHON) slurm/local/cluster.py up

slurm-down:  ## end it, by pid
	$(PYTHON) slurm/local/cluster.py down

report: .venv/.base  ## tables and figures again from the records
	$(BIN)/python -m benchmark.report --results $(RESULTS)

clean:
	rm -rf $(RESULTS) .mypy_cache .ruff_cache
