#!/usr/bin/env bash
# Runs the main job on this machine as if it had several devices:
#
#   launch/local.sh [--dry-run] [DEVICES] --config=RECIPE [any flag of python -m vmae_jax.main]
#   launch/local.sh 4 --config=configs/quickstart.py:smoke --config.mesh.fsdp=2
#
# XLA splits the CPU into DEVICES (8 unless given) simulated ones: slower than one, but meshes,
# shardings and collectives are the real ones. --dry-run prints the command instead of running it.
# XLA_FLAGS is kept and added to; PYTHON chooses the interpreter.
set -euo pipefail

usage() { # the comment above
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

devices=8 dry_run=no
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help) usage && exit ;;
    --dry-run) dry_run=yes ;;
    [0-9]*) devices=$1 ;;
    *) break ;;
  esac
  shift
done
if ! [[ $devices =~ ^[1-9][0-9]*$ ]]; then
  echo "error: $devices devices: expected a number from 1 on, such as 8" >&2
  exit 2
fi
if [[ $# -eq 0 ]]; then
  usage >&2
  exit 2
fi

export JAX_PLATFORMS=cpu
# The last one counts where the caller's flags already name a number of devices.
XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
export XLA_FLAGS
command=("${PYTHON:-python}" -m vmae_jax.main "$@")
if [[ $dry_run == yes ]]; then
  printf 'JAX_PLATFORMS=%q XLA_FLAGS=%q' "$JAX_PLATFORMS" "$XLA_FLAGS"
  printf ' %q' "${command[@]}"
  echo
  exit
fi
exec "${command[@]}"
