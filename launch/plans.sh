#!/usr/bin/env bash
# Plans every recipe on the machines that its docstring names, as in the table of launch/README.md:
#
#   launch/plans.sh [--dry-run] [RECIPE.py ...]     # configs/*.py that name topologies
#
# Each is compiled by the real TPU compiler, without a TPU (pip install -e '.[tpu]'), which takes
# about two minutes on two cores. --dry-run prints the commands instead; what does not fit is a row
# as well. PYTHON chooses the interpreter.
set -euo pipefail

dry_run=no
case ${1-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit ;;
  --dry-run) dry_run=yes && shift ;;
esac
cd "$(dirname "$0")/.."
[[ $# -gt 0 ]] || mapfile -t recipes < <(grep -l '^Topologies,' configs/*.py)
[[ $# -eq 0 ]] || recipes=("$@")
[[ $dry_run == yes ]] || "${PYTHON:-python}" -c 'from vmae_jax import plan; print(plan.HEAD)'
for recipe in "${recipes[@]}"; do
  while read -r -a flags; do
    command=("${PYTHON:-python}" -m vmae_jax.plan --config="$recipe" "${flags[@]}")
    command+=(--format=markdown)
    if [[ $dry_run == yes ]]; then
      printf '%q ' "${command[@]}"
      echo
      continue
    fi
    "${command[@]}" 2>/dev/null || [[ $? -eq 3 ]] || "${command[@]}"
  done < <(sed -n '/^Topologies,/,/^[^T ]/s/^  --/--/p' "$recipe")
done
