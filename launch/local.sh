#!/usr/bin/env bash
# Runs the main job on this machine as if it had several devices, in one process or several:
#
#   launch/local.sh [--dry-run] [--processes=N] [DEVICES] --config=RECIPE [any flag of
#                   python -m vmae_jax.main]
#   launch/local.sh 4 --config=configs/quickstart.py:smoke --config.mesh.fsdp=2
#   launch/local.sh --processes=2 4 --config=configs/quickstart.py:smoke --config.mesh.fsdp=2
#
# XLA splits the CPU into DEVICES (8 unless given) simulated ones per process: slower than one, but
# meshes, shardings and collectives are the real ones. --dry-run prints the commands instead of
# running them. XLA_FLAGS is kept and added to; PYTHON chooses the interpreter.
#
# Several processes find each other on localhost (or JAX_COORDINATOR_ADDRESS) and talk over gloo.
# Process 0 prints; the others write files, whose folder is named at the start. SIGTERM and Ctrl-C
# reach all of them. When one fails, the others get GRACE seconds (60 unless given) before they are
# killed; the exit status is that of the first which failed.
set -euo pipefail

usage() { # the comment above
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

devices=8 processes=1 dry_run=no
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) usage && exit ;;
    --dry-run) dry_run=yes ;;
    --processes=*) processes=${1#*=} ;;
    [0-9]*) devices=$1 ;;
    *) break ;;
  esac
  shift
done
for number in "$devices devices" "$processes processes"; do
  if ! [[ ${number% *} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: $number: expected a number from 1 on, such as 8" >&2
    exit 2
  fi
done
if [[ $# -eq 0 ]]; then
  usage >&2
  exit 2
fi

export JAX_PLATFORMS=cpu
# The last one counts where the caller's flags already name a number of devices.
XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
# A device holds a thread while it waits for the others: with few cores, the last may find none.
PJRT_NPROC=${PJRT_NPROC:-$((2 * devices))}
export XLA_FLAGS PJRT_NPROC
names=(JAX_PLATFORMS XLA_FLAGS PJRT_NPROC)
command=("${PYTHON:-python}" -m vmae_jax.main "$@")

show() { # the command with what it finds in its environment, as a line for a shell
  local name
  for name in "${names[@]}"; do
    printf '%s=%q ' "$name" "${!name}"
  done
  printf '%q' "${command[0]}"
  printf ' %q' "${command[@]:1}"
  echo
}

if [[ $processes -eq 1 ]]; then
  [[ $dry_run == no ]] || { show && exit; }
  exec "${command[@]}"
fi

free_port() { # one that nobody answers on, below those that the system hands out
  local port
  while port=$((20000 + RANDOM % 12000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

export JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo JAX_NUM_PROCESSES=$processes
export JAX_COORDINATOR_ADDRESS=${JAX_COORDINATOR_ADDRESS:-localhost:$(free_port)}
names+=(JAX_CPU_COLLECTIVES_IMPLEMENTATION JAX_COORDINATOR_ADDRESS)
names+=(JAX_NUM_PROCESSES JAX_PROCESS_ID)
if [[ $dry_run == yes ]]; then
  for ((JAX_PROCESS_ID = 0; JAX_PROCESS_ID < processes; JAX_PROCESS_ID++)); do
    show
  done
  exit
fi

logs=$(mktemp -d "${TMPDIR:-/tmp}/vmae_jax.XXXXXX")
echo "processes 1 to $((processes - 1)) write to $logs/process_*.log" >&2
# Each process leads a group of its own: Ctrl-C reaches it once, from here, and what it started can
# be killed with it.
set -m
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM
trap 'kill -INT "${pids[@]}" 2>/dev/null || true' INT
for ((i = 0; i < processes; i++)); do
  if [[ $i -eq 0 ]]; then
    JAX_PROCESS_ID=0 "${command[@]}" &
  else
    JAX_PROCESS_ID=$i "${command[@]}" >"$logs/process_$i.log" 2>&1 &
  fi
  pids+=($!)
done

status=0 failed_at=
while :; do
  running=0
  for ((i = 0; i < processes; i++)); do
    pid=${pids[i]}
    [[ $pid != ended ]] || continue
    if kill -0 "$pid" 2>/dev/null; then
      running=$((running + 1))
      continue
    fi
    wait "$pid" && code=0 || code=$?
    pids[i]=ended
    if [[ $code -ne 0 && $status -eq 0 ]]; then
      status=$code failed_at=$SECONDS
      echo "process $i ended with status $code" >&2
      [[ $i -eq 0 ]] || tail -n 20 "$logs/process_$i.log" >&2
    fi
  done
  [[ $running -gt 0 ]] || break
  if [[ -n $failed_at && $((SECONDS - failed_at)) -ge ${GRACE:-60} ]]; then
    echo "killing the other $running: still there after ${GRACE:-60} s" >&2
    for pid in "${pids[@]}"; do
      [[ $pid == ended ]] || kill -KILL -- "-$pid" 2>/dev/null || true
    done
    failed_at=
  fi
  sleep 0.1
done
[[ $status -ne 0 ]] || rm -r "$logs"
exit "$status"
