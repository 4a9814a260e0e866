#!/usr/bin/env bash
# Runs the main job on GPU nodes of a SLURM cluster, from the root of the checkout:
#
#   sbatch --nodes=2 --time=24:00:00 launch/slurm.sh --config=RECIPE --workdir=SHARED_FOLDER [any
#          flag of python -m vmae_jax.main]
#   launch/slurm.sh --dry-run --config=RECIPE ...   # prints the command of a node with 8 GPUs
#
# Options before the script's name override the lines below (and add what your site wants:
# --partition, --account). PYTHON chooses the interpreter, such as .venv/bin/python, MODULE another
# command; a run per task of an array:
#   MODULE=vmae_jax.study sbatch --array=0-20 launch/slurm.sh --config=STUDY
#
# One process per node, which uses all its GPUs: one data pipeline feeds them and one process writes
# the node's part of a checkpoint, as on TPUs. JAX would give a process of SLURM a single GPU, so
# their numbers are in JAX_LOCAL_DEVICE_IDS; everything else it finds in SLURM's own variables.
#
# Two minutes before the time limit, and when it is preempted, the run saves and goes back into the
# queue. scancel stops it for good. An error ends the job.
#
#SBATCH --job-name=vmae_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

dry_run=no
case ${1-} in
  -h | --help) sed -n '2,/^#SBATCH/{/^#SBATCH/!s/^# \{0,1\}//p}' "$0" && exit ;;
  --dry-run)
    dry_run=yes
    shift
    SLURM_GPUS_ON_NODE=${SLURM_GPUS_ON_NODE:-8} SLURM_CPUS_ON_NODE=${SLURM_CPUS_ON_NODE:-64}
    ;;
esac

die() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -gt 0 ]] || die "no recipe: sbatch launch/slurm.sh --config=RECIPE --workdir=SHARED_FOLDER"
[[ $dry_run == yes || -n ${SLURM_JOB_ID-} ]] || die "not in a job: sbatch launch/slurm.sh $*"
[[ -n ${SLURM_GPUS_ON_NODE-} ]] ||
  die "a job without GPUs: sbatch --gpus-per-node=8 launch/slurm.sh"

JAX_LOCAL_DEVICE_IDS=$(seq --separator=, 0 $((SLURM_GPUS_ON_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS
# When a process has ended, the others get five minutes: one that fails must not leave the rest
# waiting, one that has saved must not cut off those that still do.
command=(srun --cpus-per-task="$SLURM_CPUS_ON_NODE" --kill-on-bad-exit=0 --wait=300)
command+=("${PYTHON:-python}" -m "${MODULE:-vmae_jax.main}" "$@")
if [[ $dry_run == yes ]]; then
  printf 'JAX_LOCAL_DEVICE_IDS=%q' "$JAX_LOCAL_DEVICE_IDS"
  printf ' %q' "${command[@]}"
  echo
  exit
fi

# The number of the first task of an array is that of the whole array as well.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

# SLURM's warning (USR1, see --signal) comes to this shell alone: scancel asks the processes of the
# job to save. SIGTERM comes to them without us, and whoever is asked twice gives up saving.
signalled=yes
trap 'signalled=yes; scancel --signal=TERM "$job" || true' USR1
trap 'signalled=yes' TERM
"${command[@]}" &
srun=$!
while [[ $signalled == yes ]]; do
  signalled=no
  wait "$srun" && status=0 || status=$?
done

# 143: saved after SIGTERM. A job that somebody cancelled is not RUNNING any more.
if [[ $status -eq 143 ]] &&
  [[ $(squeue --noheader --format=%T --jobs="$job") == RUNNING ]]; then
  echo "saved; back into the queue"
  scontrol requeue "$job"
fi
exit "$status"
