#!/usr/bin/env bash
# Submits a whole recipe: data stages and training stages as jobs that wait for each other.
#   scripts/slurm/submit.sh RECIPE [-- --set A.B=C ...]
# SBATCH_DATA and SBATCH_TRAIN: options of sbatch for either kind of job, such as "--partition=gpu --nodes=2".
set -euo pipefail
recipe=${1:?usage: scripts/slurm/submit.sh RECIPE [-- --set A.B=C ...]}
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
before=
submit() { # KIND STAGE ...
    local kind=$1 options
    shift
    if [[ $kind == train ]]; then options=${SBATCH_TRAIN:-}; else options=${SBATCH_DATA:-}; fi
    # shellcheck disable=SC2086  # options are several words
    before=$(sbatch --parsable ${before:+--dependency=afterok:$before} $options "$here/$kind.sbatch" "$recipe" "$@")
    before=${before%%;*}
    echo "job $before: $*"
}
submit data assets corpus align warm_start spell "$@"
submit train stage1 "$@"
submit data cluster probe select synthesize "$@"
submit train stage2 "$@"
submit data rounds evaluate report "$@"
