#!/usr/bin/env bash
# Shows that pre-training teaches something, on two CPU cores:
#
#   launch/learning.sh [--distill] [--dry-run] [FOLDER] [SEED ...]   # runs/learning, seeds 0 1 2
#
# On 1,600 embedded videos of ten motions and 400 held-out ones: pre-trains a small model, then
# trains it and a fresh one for the same steps, a linear layer on both while frozen, and k-NN.
# Prints a table such as the README's. Started again, it continues and repeats nothing that is done.
# --distill compares something else: a smaller model that learns from the best one of these, and the
# same that learns from the labels alone. --dry-run prints the commands; PYTHON chooses the
# interpreter.
set -euo pipefail

dry_run=no
distill=no
while [[ ${1-} == -* ]]; do
  case $1 in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit ;;
    --dry-run) dry_run=yes ;;
    --distill) distill=yes ;;
    *) echo "error: $1: expected --distill, --dry-run or a folder" >&2 && exit 2 ;;
  esac
  shift
done
folder=$(realpath -m "${1:-runs/learning}")
shift || true
[[ $# -gt 0 ]] || set -- 0 1 2
for seed in "$@"; do
  [[ $seed =~ ^[0-9]+$ ]] || { echo "error: $seed: expected a seed, such as 0" >&2 && exit 2; }
done
python=${PYTHON:-python}
[[ $python != */* ]] || python=$(realpath -s "$python")

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
  if [[ $distill == yes ]]; then
    best=$folder/pretrained_finetune_$seed
    from=(--config.init_from="$folder/pretrain_$seed")
    run "pretrained_finetune_$seed" finetune_synthetic "${same[@]}" "${from[@]}"
    run "distilled_student_$seed" distill_synthetic "${same[@]}" --config.distill.teacher="$best"
    run "labelled_student_$seed" distill_synthetic "${same[@]}" --config.task=finetune
    continue
  fi
  for start in pretrained random; do
    from=(--config.init_from=)
    [[ $start == random ]] || from=(--config.init_from="$folder/pretrain_$seed")
    run "${start}_finetune_$seed" finetune_synthetic "${same[@]}" "${from[@]}"
    run "${start}_linear_$seed" finetune_synthetic "${same[@]}" "${from[@]}" "${linear[@]}"
    run "${start}_knn_$seed" finetune_synthetic "${same[@]}" "${from[@]}" "${knn[@]}"
  done
done
[[ $dry_run == no ]] || exit 0

"$python" - "$distill" "$folder" "$@" <<'TABLE'
import json, pathlib, statistics, sys

distill, folder, seeds = sys.argv[1] == "yes", pathlib.Path(sys.argv[2]), sys.argv[3:]
print("\n| top-1 on 400 held-out videos, % |", " | ".join(f"seed {s}" for s in seeds), "| mean |")
print("|---|" + "---|" * (len(seeds) + 1))
rows = {
    "pretrained_finetune": "fine-tuned, pre-trained", "random_finetune": "fine-tuned, from scratch",
    "pretrained_linear": "linear, pre-trained", "random_linear": "linear, random features",
    "pretrained_knn": "k-NN, pre-trained", "random_knn": "k-NN, random features",
}
if distill:
    rows = {
        "pretrained_finetune": "teacher", "distilled_student": "student, from the teacher",
        "labelled_student": "student, from the labels",
    }
for run, name in rows.items():
    files = (folder / f"{run}_{s}" / "eval" / "summary.json" for s in seeds)
    tops = [json.loads(file.read_text())["top1"] for file in files]
    print(f"| {name} |", " | ".join(f"{x:.1f}" for x in (*tops, statistics.mean(tops))), "|")
TABLE
