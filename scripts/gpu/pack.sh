#!/usr/bin/env bash
# Here, with a network: the data of a grid (made by `salad reproduce RECIPE --only none --budget 1s`), the weights that its cells read
# (as they are shipped; converted there) and, where that machine lacks packages, their wheels, as parts of at most 60 MiB.
#   scripts/gpu/pack.sh runs/reproduce-long bundles [wheels]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
run=$1 out=$2 wheels=${3:-}
python=.venv/bin/python
[[ -x $python ]] || python=python3
cache="$("$python" -c 'from salad import assets; print(assets.cache_dir())')"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/cache" "$stage/wheels"
for name in smollm2-135m-instruct whisper-tiny.en human-speech; do  # the demo's LLM and encoder, and people's voices
    folder="$("$python" -c 'import sys; from salad import assets; print(assets.get(sys.argv[1]))' "$name")"
    mkdir -p "$stage/cache/${folder#"$cache"/}"
    cp -rL "$folder/." "$stage/cache/${folder#"$cache"/}"
done
[[ -z $wheels ]] || cp "$wheels"/*.whl "$stage/wheels"
# Left out: what each cell trains anew, cells that were run here, and links behind the filter bank, which that machine
# makes again. The shared upper part of the ears goes along.
without=(--without 'base/stage1/checkpoint-*' --without 'cells/*' --without 'warm/*' --without '*/model/*' --without 'log-mel/*')
for old in $(find "$run/base/spell" -maxdepth 1 -name 'checkpoint-*' -printf '%f\n' | sort | head -n -1); do
    without+=(--without "base/spell/$old/*")
done
"$python" scripts/gpu/bundle.py pack "$out" run="$run" cache="$stage/cache" wheels="$stage/wheels" "${without[@]}"
