# Everything starts here: `make help`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export UNJPEG_DATA ?= ../shared/data
BENCHMARK := $(BIN)/unjpeg benchmark --metric psnr_db --metric ssim --metric psnr_b_db
ARCNN := runs/compared/arcnn.safetensors
# Folders and networks that not everybody has: what needs one is left out where it is not named.
COCO ?=
COCO_BOXES ?= $(UNJPEG_DATA)/test/coco-part/instances_val_union.json
IMAGENET ?=
DETECTOR ?= $(UNJPEG_DATA)/networks/yolox_nano.onnx
SEGMENTER ?= $(UNJPEG_DATA)/networks/espnetv2_s2.0_voc_384.onnx
CLASSIFIER ?= runs/efficientnet_lite0.onnx
DNCNN ?=
METHODS_RUN = --method jpeg --method fast --method default $(if $(shell command -v jpegqs),--method jpeg-quantsmooth) \
  --method $(ARCNN)
METHODS = $(METHODS_RUN) --method printed:ARCNN --method printed:QGAC \
  --method printed:FBCNN --method printed:DAGN

.DEFAULT_GOAL := help
.PHONY: help demo wheel test test-web test-install check bench long fuzz faults memory audit format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

demo: $(VENV)/installed ## Set up, restore a bundled JPEG, and draw a before/after picture
	$(BIN)/python examples/demo.py

wheel: $(VENV)/python-ready ## Build the package into dist/, to be installed with pip, pipx or uv
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

test: $(VENV)/installed-dev ## Set up with the test and training extras, run all tests
	$(BIN)/python -m pytest -m "not browser"

test-web: $(VENV)/installed-browser ## Try the page in a headless Chromium (Debian's package chromium)
	$(BIN)/python -m pytest -m browser

test-install: $(VENV)/installed-dev ## Follow the README in an empty environment, with packages from the index
	UNJPEG_FROM_INDEX=1 $(BIN)/python -m pytest -s tests/test_readme.py

check: $(VENV)/installed-dev ## Format, lint, types, fast tests: before each commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not browser"

format: $(VENV)/installed-dev ## Format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-dev $(ARCNN) ## Measure quality and speed on the benchmark sets into results/
	$(BENCHMARK) live1 $(METHODS) --method default@full --method default@off --rounds 3 --quality 5,10,20,30,40,50,60,70,80,90,95,100 \
	  --out runs/bench/live1
	cp runs/bench/live1/results.json results/live1.json
	$(BENCHMARK) bsds500 $(METHODS) --method best --out runs/bench/bsds500
	cp runs/bench/bsds500/results.json results/bsds500.json
	$(BENCHMARK) bsds500 --method jpeg --method fast --method default --rounds 0 --quality 70,90,95,100 --out runs/bench/bsds500-high
	cp runs/bench/bsds500-high/results.json results/bsds500-high.json
	$(BIN)/python -m studies.halved bsds500 runs/bsds-halved
	$(BENCHMARK) runs/bsds-halved --method jpeg --method fast --method default --rounds 0 --quality 70,90,95,100 --out runs/bench/bsds500-halved
	cp runs/bench/bsds500-halved/results.json results/bsds500-halved.json
	$(BENCHMARK) live1 --method jpeg --method fast --method default --method default@off --rounds 0 --out runs/bench/live1-mozjpeg \
	  $(foreach quality,10 20 30 40 70 90,--degradation mozjpeg-$(quality))
	cp runs/bench/live1-mozjpeg/results.json results/live1-mozjpeg.json
	$(BENCHMARK) classic5 set12 bsd68 --method jpeg --method fast --method default --rounds 0 --out runs/bench/grey
	cp runs/bench/grey/results.json results/grey.json
	$(BENCHMARK) live1 --method jpeg --method default --method best --method default@tta --rounds 1 --out runs/bench/live1-tta
	cp runs/bench/live1-tta/results.json results/live1-tta.json
	$(BIN)/python -m studies.downstream.measure contours $(METHODS_RUN) --quality 10,30 --limit 100
	$(if $(COCO),$(BIN)/python -m studies.downstream.measure detection $(DETECTOR) --data $(COCO) --annotations $(COCO_BOXES) $(METHODS_RUN) --method best)
	$(if $(COCO),$(BIN)/python -m studies.downstream.measure segmentation $(SEGMENTER) --data $(COCO) --annotations $(COCO_BOXES) $(METHODS_RUN) --method best)
	$(if $(COCO),$(BIN)/python -m studies.downstream.measure agreement $(SEGMENTER) --data $(COCO) $(METHODS_RUN) --method best)
	$(if $(IMAGENET),$(BIN)/python -m studies.downstream.measure classification $(CLASSIFIER) --data $(IMAGENET) $(METHODS_RUN) --method best)
	$(if $(DNCNN),$(BIN)/python -m studies.peers convert dncnn3 $(DNCNN) --out runs/compared/dncnn3.safetensors)
	$(if $(DNCNN),$(BIN)/python -m studies.peers luma $(UNJPEG_DATA)/test/live1 runs/live1-luma)
	$(if $(DNCNN),$(BENCHMARK) classic5 set12 bsd68 runs/live1-luma --method jpeg --method runs/compared/dncnn3.safetensors --method fast --method default --out runs/bench/peers)
	$(if $(DNCNN),$(BIN)/python -m studies.peers summary runs/bench/peers/results.json)
	$(if $(shell command -v tesseract),$(BIN)/python -m studies.downstream.measure text $(METHODS_RUN))
	$(BIN)/python -m studies.speed.throughput workers --photo examples/kitten-original.webp
	$(BIN)/python -m studies.speed.throughput against --photo examples/kitten-original.webp fast default best fbcnn-sized \
	  $(if $(shell command -v jpegqs),'jpegqs=jpegqs --quality 6 --info 0 {input} {output}')
	$(BIN)/python -m studies.speed.counters --photo examples/kitten-original.webp
	$(BIN)/python -m studies.speed.cost --photo examples/kitten-original.webp --halo-set $(UNJPEG_DATA)/test/live1 --out results
	$(BIN)/python -m studies.earlier $(UNJPEG_DATA)/test/live1 --every 3 --perceptual 5
	$(BIN)/python -m studies.history $(UNJPEG_DATA)/test/live1 $(UNJPEG_DATA)/train/cid22 --every 40
	$(BIN)/python -m studies.history $(UNJPEG_DATA)/test/live1 --times 0.4,12,100
	$(BIN)/python -m studies.documents.tables

long: $(VENV)/installed-dev ## Checks of an hour or more: kill a training ten times, train at the published size
	$(BIN)/python -m pytest -s tests/stress/long_training.py

fuzz: $(VENV)/installed-dev ## Mutated files for ten minutes: crashes, hangs, half-written outputs, changed originals
	$(BIN)/python tests/stress/fuzz.py --count 30000 --seed 1 --minutes 10 --out results/fuzz.json
	$(PIP_INSTALL) --editable '.[fuzz]'
	$(BIN)/python tests/stress/fuzz.py --coverage --count 30000 --minutes 10 --out results/fuzz.json

faults: $(VENV)/installed-dev ## Kill a batch a hundred times, fill the disk, take folders away
	$(BIN)/python tests/stress/fault_series.py --out results/faults.json

memory: $(VENV)/installed-dev ## Memory of a worker, of the page and of a Restorer over a thousand sizes: at most a tenth more
	$(BIN)/python tests/stress/memory.py --pictures 1000 --out results/memory-flat.json

audit: $(VENV)/installed-dev ## Known vulnerabilities in what is installed
	$(PIP_INSTALL) pip-audit && $(BIN)/pip-audit --skip-editable

$(ARCNN): | $(VENV)/installed-dev
	$(BIN)/python -m studies.compared arcnn $(foreach set,photos cid22 clic2025,--data $(UNJPEG_DATA)/train/$(set)) --out $@

clean: ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

$(VENV)/python-ready:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/python-ready pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/python-ready pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[cluster,dev,downstream,evaluate,onnxruntime,peers,train,web]'
	touch $@ $(VENV)/installed

$(VENV)/installed-browser: $(VENV)/python-ready pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev,web,browser]'
	touch $@ $(VENV)/installed
