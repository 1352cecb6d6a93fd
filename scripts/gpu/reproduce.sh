#!/usr/bin/env bash
# On the machine with the GPU, in a checkout of this repository, once all parts are there: unpack, run the grid, no network.
#   scripts/gpu/reproduce.sh BUNDLES WORK [BUDGET] [RECIPE] [OPTION ...]
# The recipe and the options must be those of the packed run: other settings would make its data anew.
# Results lie in WORK/run: reproduce.html, findings.json, results.jsonl, shared.json; the page names the card. Give
# `--rows FILE` as an option to go on from cells that were kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bundles=$1 work=$2 budget=${3:-25m} recipe=${4:-recipes/reproduce-long.yaml}
if [[ ! -e $work/unpacked ]]; then  # once, and again where it was cut off
    python3 scripts/gpu/bundle.py unpack "$bundles" "$work"
    touch "$work/unpacked"
fi
if compgen -G "$work/wheels/*.whl" >/dev/null; then
    python3 -m pip install -q --no-index --no-deps --upgrade --target "$work/site" "$work"/wheels/*.whl
fi
export PYTHONPATH="$PWD/src:$work/site${PYTHONPATH:+:$PYTHONPATH}" SALAD_CACHE="$work/cache" HF_HUB_OFFLINE=1
python3 -m salad.cli reproduce "$recipe" --budget "$budget" --set run_dir="$work/run" "${@:5}"
