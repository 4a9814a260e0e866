#!/usr/bin/env bash
# Runs the main job on a Cloud TPU: one machine, a pod of them, or several pods ("slices").
#
#   launch/tpu_vm.sh [--dry-run] create            # the machines; waits until they are there
#   launch/tpu_vm.sh [--dry-run] install           # this checkout and its packages, on all workers
#   launch/tpu_vm.sh [--dry-run] run FLAGS ...     # python -m vmae_jax.main FLAGS, on all workers
#   launch/tpu_vm.sh [--dry-run] logs [WORKER]     # follows the log of a worker, or of the first
#   launch/tpu_vm.sh [--dry-run] status            # of the machines, and of the run on each worker
#   launch/tpu_vm.sh [--dry-run] stop              # SIGTERM: the run saves; run continues it
#   launch/tpu_vm.sh [--dry-run] delete            # the machines, which cost until then
#   launch/tpu_vm.sh [--dry-run] [--delete] watch FLAGS ...
#
# watch does all of it and stays: it creates the machines if there are none, installs, runs, and
# does so again after every preemption, until the run has finished, failed or been stopped. It can
# be interrupted and started again: the run itself does not need it. --delete: with the run's end,
# the machines go as well. --dry-run prints the commands and runs nothing. Variables for the run,
# such as LIBTPU_INIT_ARGS=..., stand before FLAGS.
#
# Settings are variables of the environment or lines in launch/tpu.env (or the file TPU_ENV):
#   TPU_PROJECT, TPU_ZONE, TPU_NAME
#   TPU_TYPE          such as v5litepod-256, v6e-256 or v5p-128
#   TPU_VERSION       software of the machines [the one for TPU_TYPE]
#   TPU_SPOT          yes: cheaper, and taken away when others want it [no]
#   TPU_QUEUE         yes: waits in the queue for free machines; no: now or not at all [yes]
#   TPU_SLICES        so many pods of TPU_TYPE, for which there has to be a queue [1]
#   TPU_CREATE_FLAGS  more flags of gcloud ... create, such as --reserved or --service-account=...
#   TPU_SSH_FLAGS     more flags of gcloud ... ssh and scp, such as --tunnel-through-iap
#   TPU_POLL          seconds between two looks [60]
#   TPU_RETRIES       how often watch goes on after a crash of the run or a failed step [3]
set -euo pipefail

dry_run=no delete=no
while [[ ${1-} == -* ]]; do
  case $1 in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit ;;
    --dry-run) dry_run=yes ;;
    --delete) delete=yes ;;
    *) echo "error: $1: expected --dry-run, --delete or --help before a command" >&2 && exit 2 ;;
  esac
  shift
done

die() {
  echo "error: $*" >&2
  exit 1
}

say() {
  echo "$(date +%T) $*" >&2
}

quoted() { # words for a shell
  local word quote="'\\''" space=
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=,@%+-]*) printf "%s'%s'" "$space" "${word//\'/$quote}" ;;
      *) printf '%s%s' "$space" "$word" ;;
    esac
    space=' '
  done
}

call() { # a command; with --dry-run its text
  if [[ $dry_run == yes ]]; then
    quoted "$@" && echo
  else
    "$@"
  fi
}

scratch=${TMPDIR:-/tmp}
if [[ $dry_run == no ]]; then
  scratch=$(mktemp -d "$scratch/vmae_jax.XXXXXX")
  trap 'rm -r "$scratch"' EXIT
fi

# --- settings, and every flag of gcloud -----------------------------------------------------------

cd "$(dirname "$0")/.."
settings=${TPU_ENV:-launch/tpu.env}
if [[ -e $settings ]]; then
  while IFS='=' read -r name value || [[ -n $name ]]; do
    name=${name#$'\xef\xbb\xbf'} value=${value%$'\r'} # as editors on Windows write it
    if [[ $name == TPU_* && -z ${!name-} ]]; then printf -v "$name" %s "$value"; fi
  done <"$settings"
fi
missing=
for name in TPU_PROJECT TPU_ZONE TPU_TYPE TPU_NAME; do
  [[ -n ${!name-} ]] || missing+=" $name"
done
[[ -z $missing ]] || die "not set:$missing; see launch/tpu.env.example"
case $TPU_TYPE in # https://cloud.google.com/tpu/docs/runtimes
  v5p-*) default=v2-alpha-tpuv5 ;;
  v5litepod-*) default=v2-alpha-tpuv5-lite ;;
  v6e-*) default=v2-alpha-tpuv6e ;;
  v[234]-*) default=tpu-ubuntu2204-base ;;
  *) default= ;;
esac
: "${TPU_VERSION:=$default}" "${TPU_SPOT:=no}" "${TPU_QUEUE:=yes}" "${TPU_SLICES:=1}"
: "${TPU_CREATE_FLAGS:=}" "${TPU_SSH_FLAGS:=}" "${TPU_POLL:=60}" "${TPU_RETRIES:=3}"
[[ -n $TPU_VERSION ]] ||
  die "TPU_TYPE=$TPU_TYPE: no software known for it: set TPU_VERSION, or see launch/gke.yaml"
[[ $TPU_SPOT == yes || $TPU_SPOT == no ]] || die "TPU_SPOT=$TPU_SPOT: expected yes or no"
[[ $TPU_QUEUE == yes || $TPU_QUEUE == no ]] || die "TPU_QUEUE=$TPU_QUEUE: expected yes or no"
[[ $TPU_SLICES =~ ^[1-9][0-9]*$ ]] || die "TPU_SLICES=$TPU_SLICES: expected a number from 1 on"
[[ $TPU_SLICES == 1 || $TPU_QUEUE == yes ]] || die "TPU_SLICES=$TPU_SLICES needs TPU_QUEUE=yes"

read -ra create_flags <<<"$TPU_CREATE_FLAGS"
read -ra ssh_flags <<<"$TPU_SSH_FLAGS"
tpus=(gcloud compute tpus)
place=(--project="$TPU_PROJECT" --zone="$TPU_ZONE" --quiet)
nodes=("$TPU_NAME")
if [[ $TPU_QUEUE == yes ]]; then
  kind=queued-resources
  state_field=state.state
  first=(--node=0)
  all=(--node=all --worker=all)
  delete_flags=(--force) # the machines with the request
  creation=(--runtime-version="$TPU_VERSION")
  if [[ $TPU_SLICES == 1 ]]; then
    creation+=(--node-id="$TPU_NAME")
  else
    creation+=(--node-count="$TPU_SLICES" --node-prefix="$TPU_NAME")
    nodes=()
    for ((i = 0; i < TPU_SLICES; i++)); do nodes+=("$TPU_NAME-$i"); done
  fi
else
  kind=tpu-vm
  state_field=state
  first=()
  all=(--worker=all)
  delete_flags=()
  creation=(--version="$TPU_VERSION")
fi
creation+=(--accelerator-type="$TPU_TYPE")
[[ $TPU_SPOT == no ]] || creation+=(--spot)

create() { # asks for the machines
  call "${tpus[@]}" $kind create "$TPU_NAME" "${place[@]}" "${creation[@]}" \
    ${create_flags[@]+"${create_flags[@]}"}
}

delete() {
  call "${tpus[@]}" $kind delete "$TPU_NAME" "${place[@]}" ${delete_flags[@]+"${delete_flags[@]}"}
}

describe() { # KIND NAME FIELD
  call "${tpus[@]}" "$1" describe "$2" "${place[@]}" --format="value($3)"
}

on_all() { # a command line for the shell of every worker
  call "${tpus[@]}" $kind ssh "$TPU_NAME" "${place[@]}" "${all[@]}" \
    ${ssh_flags[@]+"${ssh_flags[@]}"} --command="$1"
}

on_worker() { # NUMBER, and a command line for it
  call "${tpus[@]}" $kind ssh "$TPU_NAME" "${place[@]}" ${first[@]+"${first[@]}"} --worker="$1" \
    ${ssh_flags[@]+"${ssh_flags[@]}"} --command="$2"
}

copy_to_all() { # FILE, to the home folder of every worker
  call "${tpus[@]}" $kind scp "$1" "$TPU_NAME:" "${place[@]}" "${all[@]}" \
    ${ssh_flags[@]+"${ssh_flags[@]}"}
}

# --- machines -------------------------------------------------------------------------------------

state_of() { # KIND NAME FIELD: a state of gcloud's, missing, or unknown where gcloud fails
  local found
  if found=$(describe "$@" 2>"$scratch/errors"); then
    echo "$found"
  elif grep -q NOT_FOUND "$scratch/errors"; then
    echo missing
  else
    cat "$scratch/errors" >&2
    echo unknown
  fi
}

machines() { # of all together: ready, missing, unknown, waiting (STATE) or lost (STATE)
  local found node
  found=$(state_of $kind "$TPU_NAME" $state_field)
  case $found in
    ACTIVE | READY) ;;
    missing | unknown) echo "$found" && return ;;
    FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED) echo "lost ($found)" && return ;;
    *) echo "waiting ($found)" && return ;;
  esac
  [[ $kind != tpu-vm ]] || { echo ready && return; }
  for node in "${nodes[@]}"; do # a request stays active when one of several slices is preempted
    found=$(state_of tpu-vm "$node" state)
    case $found in
      READY) ;;
      unknown) echo unknown && return ;;
      missing | PREEMPTED | TERMINATED | STOPPED) echo "lost ($node: $found)" && return ;;
      *) echo "waiting ($node: $found)" && return ;;
    esac
  done
  echo ready
}

recreate() { # the machines, after what machines() said of them
  if [[ $1 != missing ]]; then
    delete || return
  fi
  create
}

wait_for_machines() {
  local found last=
  while found=$(machines) && [[ $found != ready ]]; do
    [[ $found != lost* && $found != missing ]] || die "$TPU_NAME: $found"
    [[ $found == "$last" ]] || say "$TPU_NAME: $found"
    last=$found
    sleep "$TPU_POLL"
  done
  say "$TPU_NAME: ready"
}

# --- the run --------------------------------------------------------------------------------------

install() { # the checkout as it is here, with its uncommitted changes
  local archive=$scratch/vmae_jax.tgz
  if [[ $dry_run == yes ]]; then
    echo "git ls-files -coz --exclude-standard | tar -czf $(quoted "$archive") --null -T -"
  else
    git ls-files -coz --exclude-standard | tar -czf "$archive" --null -T - || return
  fi
  copy_to_all "$archive" || return
  local unpack='mkdir -p vmae_jax && tar -xzf vmae_jax.tgz -C vmae_jax'
  on_all "$unpack && vmae_jax/launch/worker.sh install"
}

start() { # FLAGS of python -m vmae_jax.main, on all workers
  local words=(env)
  while [[ ${1-} == [A-Z]*=* ]]; do
    words+=("$1")
    shift
  done
  words+=(.venv/bin/python -m vmae_jax.main "$@")
  on_all "vmae_jax/launch/worker.sh start $(quoted "${words[@]}")"
}

check_flags() {
  case " $* " in
    *" --workdir"[=\ ]gs://* | *" --workdir"[=\ ]/*) ;;
    *) die "no --workdir=gs://BUCKET/RUN: workers share no folder, and their disks go with them" ;;
  esac
}

worker_states() { # a line "worker HOST: STATE" each; a new machine has nothing to ask yet
  on_all '[ ! -e vmae_jax ] && echo "worker: none" || vmae_jax/launch/worker.sh status'
}

run_state() { # of all workers together, in one word; the lines that explain it to stderr
  local lines complete=yes
  lines=$(worker_states 2>"$scratch/errors") || complete=no
  lines=$(grep '^worker' <<<"$lines") || complete=no
  if grep -Eq '^worker[^:]*: running' <<<"$lines"; then
    echo running
  elif grep -E '^worker[^:]*: stopped' <<<"$lines" >&2; then
    echo stopped
  elif grep -E '^worker[^:]*: exit [12](:|$)' <<<"$lines" >&2; then
    echo failed
  elif [[ $complete == no ]]; then
    tail -n 3 "$scratch/errors" >&2
    echo unknown
  elif grep -Eq '^worker[^:]*: (none|lost)' <<<"$lines"; then
    echo absent
  elif ! grep -Ev '^worker[^:]*: exit 0(:|$)' <<<"$lines" >&2; then
    echo finished
  elif grep -Eq '^worker[^:]*: exit (130|143)(:|$)' <<<"$lines"; then
    echo saved
  else
    echo crashed
  fi
}

over() { # STATUS and words: the end of watch
  say "${@:2}"
  if [[ $delete == yes ]]; then
    [[ $1 -eq 0 ]] || on_worker 0 'tail -n 50 vmae_jax/runs/worker/log' || true
    delete
  else
    say "the machines cost until: launch/tpu_vm.sh delete"
  fi
  exit "$1"
}

watch() {
  if [[ $dry_run == yes ]]; then # once through: of lost machines to the end of the run
    describe $kind "$TPU_NAME" $state_field
    delete && create && install && start "$@" && worker_states
    [[ $delete == no ]] || delete
    return
  fi
  trap 'say "the run goes on without this; the same command watches it again"; exit 130' INT
  local found last='' started=no failures=0
  while :; do
    found=$(machines)
    [[ $found != ready ]] || found=$(run_state)
    # Workers often die a moment before the service says that their machine is gone.
    if [[ $started == yes && $found =~ ^(failed|crashed|absent)$ ]]; then
      sleep "$TPU_POLL"
      [[ $(machines) == ready ]] || continue
    fi
    [[ $found == "$last" ]] || say "$TPU_NAME: $found"
    last=$found
    if [[ $found == *FAILED* || $started,$found =~ ^yes,(crashed|absent)$ ]]; then
      failures=$((failures + 1))
    fi
    [[ $failures -le $TPU_RETRIES ]] || over 1 "given up after $failures failures: $found"
    case $started,$found in
      *,running) started=yes ;;
      *,unknown | *,waiting*) ;;
      yes,finished) over 0 "the run has finished" ;;
      yes,stopped) over 143 "the run was stopped; the same command continues it" ;;
      yes,failed) over 1 "the run failed, see above" ;;
      *,missing | *,lost*)
        started=no
        recreate "$found" || failures=$((failures + 1))
        ;;
      *) # new machines, or a run that saved, died or is an earlier one
        started=yes
        if ! { install && start "$@"; }; then
          started=no failures=$((failures + 1))
          on_all 'vmae_jax/launch/worker.sh stop' || true # all workers or none
        fi
        ;;
    esac
    sleep "$TPU_POLL"
  done
}

verb=${1-}
[[ $# -eq 0 ]] || shift
case $verb in
  create)
    create
    [[ $dry_run == yes ]] || wait_for_machines
    ;;
  install | delete) "$verb" ;;
  run)
    check_flags "$@"
    start "$@"
    ;;
  watch)
    check_flags "$@"
    watch "$@"
    ;;
  logs) on_worker "${1:-0}" 'vmae_jax/launch/worker.sh logs' ;;
  stop) on_all 'vmae_jax/launch/worker.sh stop' ;;
  status)
    if [[ $dry_run == yes ]]; then
      describe $kind "$TPU_NAME" $state_field
      worker_states
    else
      found=$(machines)
      echo "$TPU_NAME: $found"
      [[ $found != ready ]] || worker_states
    fi
    ;;
  *)
    die "${verb:-no command}: expected create, install, run, logs, status, stop, delete or watch"
    ;;
esac
