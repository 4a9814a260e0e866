#!/usr/bin/env bash
# Shows that pre-training teaches something, on two CPU cores:
#
#   launch/learning.sh [--dry-run] [FOLDER] [SEED ...]     # runs/learning and seeds 0 1 2
#
# On 1,600 embedded videos of ten motions and 400 held-out ones: pre-trains a small model, then
# trains it and a fresh one for the same steps, a linear layer on both while frozen, and k-NN.
# Prints a table such as the README's. Started again, it continues and repeats nothing that is done.
# --dry-run prints the commands; PYTHON chooses the interpreter.
set -euo pipefail

dry_run=no
case ${1-} in
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit ;;
  --dry-run) dry_run=yes && shift ;;
esac
folder=$(realpath -m "${1:-runs/learning}")
shift || true
[[ $# -gt 0 ]] || set -- 0 1 2
python=${PYTHON:-python}

run() { # NAME RECIPE FLAGS: one run in FOLDER/NAME
  local name=$1 recipe=$2
  shift 2
  local command=("$python" -m vmae_jax.main --config="configs/$recipe.py" --workdir="$folder/$name")
  command+=(--config.data.dataset="$data" "$@")
  if [[ $dry_run == yes ]]; then
    printf '%q ' "${command[@]}"
    echo
  elif [[ ! -e $folder/$name/eval/summary.json ]]; then
    "${command[@]}"
  fi
}

cd "$(dirname "$0")/.."
if [[ $dry_run == yes ]]; then
  data=DATASET
else
  data=$("$python" -c 'import sys; from vmae_jax.data import synthetic
print(synthetic.prepare(sys.argv[1], clips_per_class=160, val_clips_per_class=40))' "$folder/data" |
    tail -n 1)
fi

linear=(--config.task=probe --config.probe.kind=linear --config.optim.base_lr=0.16)
knn=(--config.task=probe --config.probe.kind=knn)
for seed in "$@"; do
  same=(--config.seed="$seed")
  run "pretrain_$seed" pretrain_synthetic "${same[@]}"
  for start in pretrained random; do
    from=(--config.init_from=)
    [[ $start == random ]] || from=(--config.init_from="$folder/pretrain_$seed")
    run "${start}_finetune_$seed" finetune_synthetic "${same[@]}" "${from[@]}"
    run "${start}_linear_$seed" finetune_synthetic "${same[@]}" "${from[@]}" "${linear[@]}"
    run "${start}_knn_$seed" finetune_synthetic "${same[@]}" "${from[@]}" "${knn[@]}"
  done
done
[[ $dry_run == no ]] || exit 0

"$python" - "$folder" "$@" <<'TABLE'
import json, pathlib, statistics, sys

folder, seeds = pathlib.Path(sys.argv[1]), sys.argv[2:]
print("\n| top-1 on 400 held-out videos, % |", " | ".join(f"seed {s}" for s in seeds), "| mean |")
print("|---|" + "---|" * (len(seeds) + 1))
rows = {
    "pretrained_finetune": "fine-tuned, pre-trained", "random_finetune": "fine-tuned, from scratch",
    "pretrained_linear": "linear, pre-trained", "random_linear": "linear, random features",
    "pretrained_knn": "k-NN, pre-trained", "random_knn": "k-NN, random features",
}
for run, name in rows.items():
    files = (folder / f"{run}_{s}" / "eval" / "summary.json" for s in seeds)
    tops = [json.loads(file.read_text())["top1"] for file in files]
    print(f"| {name} |", " | ".join(f"{x:.1f}" for x in (*tops, statistics.mean(tops))), "|")
TABLE
