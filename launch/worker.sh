#!/usr/bin/env bash
# One run on this machine that outlives the terminal which started it:
#
#   launch/worker.sh install [EXTRAS]    # .venv with this package and extras of it (tpu,gcs)
#   launch/worker.sh start COMMAND ...   # in the background; it writes to runs/worker/log
#   launch/worker.sh status              # none, running, exit STATUS, stopped STATUS or lost, and
#                                        #   the log's last line
#   launch/worker.sh logs                # follow the log
#   launch/worker.sh stop                # SIGTERM, so that the run saves; waits until it has ended
#
# launch/tpu_vm.sh calls it on every worker of a pod; it serves as well on any Linux machine that
# one reaches through ssh. "lost" is a run that ended without a word: the machine was restarted.
set -euo pipefail

cd "$(dirname "$0")/.."
folder=runs/worker

die() {
  echo "error: $*" >&2
  exit 1
}

is_running() { # its lock is free as soon as it has ended, however it ended
  [[ -d $folder ]] && ! flock --nonblock "$folder/lock" true
}

install() {
  # The images of TPU VMs have an older Python than the package wants; uv brings its own.
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  [[ -x .venv/bin/python ]] || uv venv --quiet --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python -e ".[${1:-tpu,gcs}]"
  echo "worker $(hostname): installed"
}

start() {
  [[ $# -gt 0 ]] || die "start what? launch/worker.sh start COMMAND ..."
  mkdir -p "$folder"
  exec 9>"$folder/lock"
  flock --nonblock 9 || die "a run is under way on $(hostname): launch/worker.sh stop"
  rm -f "$folder/pid" "$folder/status" "$folder/stopped"
  setsid bash "$PWD/launch/worker.sh" supervise "$@" </dev/null >>"$folder/log" 2>&1 &
  until [[ -s $folder/pid ]]; do sleep 0.05; done
  echo "worker $(hostname): started"
}

supervise() { # holds the lock, which the command does not inherit, and notes how it ended
  echo "=== $(date -u +%FT%TZ)$(printf ' %q' "$@")"
  local pid status signalled=yes
  "$@" 9>&- &
  pid=$!
  echo "$pid" >"$folder/pid"
  trap 'signalled=yes' HUP INT TERM # a signal for all is the command's to answer
  while [[ $signalled == yes ]]; do
    signalled=no
    wait "$pid" && status=0 || status=$?
  done
  echo "$status" >"$folder/status"
}

status() {
  local state=none
  if is_running; then
    state=running
  elif [[ -s $folder/status ]]; then
    state="exit $(<"$folder/status")"
    [[ ! -e $folder/stopped ]] || state="stopped ${state#exit }"
  elif [[ -e $folder/pid ]]; then
    state=lost
  fi
  local last=
  [[ ! -e $folder/log ]] || last=$(grep -v '^[[:space:]]*$' "$folder/log" | tail -n 1)
  echo "worker $(hostname): $state${last:+: $last}"
}

stop() {
  if is_running; then
    touch "$folder/stopped"
    kill -TERM "$(<"$folder/pid")" 2>/dev/null || true
    flock --timeout 600 "$folder/lock" true || die "still running after 600 s on $(hostname)"
  fi
  status
}

case ${1-} in
  install | start | supervise | status | stop) "$@" ;;
  logs) exec tail -n 100 -F "$folder/log" ;;
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" ;;
  *) die "${1:-no command}: expected install, start, status, logs or stop; see --help" ;;
esac
