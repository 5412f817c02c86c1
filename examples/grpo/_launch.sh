#!/usr/bin/env bash
# The common part of every launch script: Ray on this node, the run on the first node, and a clean end of both.
#
#   DEFAULT_YAML=configs/grpo_quickstart.yaml NPUS_PER_NODE=2 bash examples/grpo/_launch.sh [key=value ...] [--overwrite]
#
# The same command runs on every node. What it takes from the environment:
#   DEFAULT_YAML    the run's configuration, relative to the checkout
#   NNODES          nodes of the run (1)
#   NPUS_PER_NODE   worker processes, one device each, on every node (1)
#   MASTER_ADDR     address of the first node (127.0.0.1 when there is one node)
#   CURRENT_IP      address of this node (MASTER_ADDR when there is one node)
#   MASTER_PORT     port of Ray on the first node (6379; a free one when there is one node)
#   JOIN_TIMEOUT    seconds that a node waits for the first one (40)
#   RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH   a secret shared by the nodes; without one, a run over several nodes goes
#                   without authentication
# Exit codes: 0 done, 1 failed, 2 a request that can't be served, 130 interrupted.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v mindrl >/dev/null || PATH=$PWD/.venv/bin:$PATH

NNODES=${NNODES:-1}
NPUS_PER_NODE=${NPUS_PER_NODE:-1}
JOIN_TIMEOUT=${JOIN_TIMEOUT:-40}
READY_TIMEOUT=60 # seconds for Ray's own start on this node
QUIT_TIMEOUT=4   # seconds that the run, and then Ray, may take to end before they are killed

refuse() { echo "launch: $1" >&2; exit 2; }

command -v mindrl >/dev/null || refuse "there is no mindrl command here; make the environment first: bash requirements/install.sh"
[[ -n ${DEFAULT_YAML:-} ]] || refuse "DEFAULT_YAML is not set; name the run's configuration, such as configs/grpo_quickstart.yaml"
[[ $NNODES =~ ^[1-9][0-9]*$ ]] || refuse "NNODES is '$NNODES'; give the number of nodes"
[[ $NPUS_PER_NODE =~ ^[1-9][0-9]*$ ]] || refuse "NPUS_PER_NODE is '$NPUS_PER_NODE'; give the number of worker processes per node"
if ((NNODES == 1)); then
  MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
  CURRENT_IP=${CURRENT_IP:-$MASTER_ADDR}
fi
[[ -n ${MASTER_ADDR:-} ]] || refuse "NNODES is $NNODES, but MASTER_ADDR is not set; give the first node's address"
[[ -n ${CURRENT_IP:-} ]] || refuse "NNODES is $NNODES, but CURRENT_IP is not set; give this node's address"

resolve() { { getent ahostsv4 "$1" || true; } | awk 'NR == 1 { print $1 }'; }
head_ip=$(resolve "$MASTER_ADDR")
[[ -n $head_ip ]] || refuse "MASTER_ADDR '$MASTER_ADDR' is not known to this machine's name service"
node_ip=$(resolve "$CURRENT_IP")
[[ -n $node_ip ]] || refuse "CURRENT_IP '$CURRENT_IP' is not known to this machine's name service"

# The network interface that carries the workers' collectives is the one with this node's address.
MINDRL_INTERFACE=$(python - "$node_ip" <<'PYTHON'
import sys, psutil
held = {address.address: name for name, addresses in psutil.net_if_addrs().items() for address in addresses}
print(held.get(sys.argv[1], ""))
PYTHON
)
[[ -n $MINDRL_INTERFACE ]] || refuse "CURRENT_IP '$CURRENT_IP' is not an address of this machine"
export MINDRL_INTERFACE

is_head=false
[[ $node_ip == "$head_ip" ]] && is_head=true
arguments=("$DEFAULT_YAML" "cluster.num_nodes=$NNODES" "cluster.devices_per_node=$NPUS_PER_NODE" "$@")

ray_pid=""
train_pid=""
temp_dir=""

# stop PID SIGNAL: ends a process that we started, and what is left of its process group.
stop() {
  local pid=$1 signal=$2 tenths
  kill -s "$signal" "$pid" 2>/dev/null || true
  for ((tenths = 0; tenths < QUIT_TIMEOUT * 10; tenths++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -s KILL -- "-$pid" 2>/dev/null || true
}

end() {
  local status=$?
  trap '' INT TERM HUP
  trap - EXIT
  case $status in 0 | 1 | 2 | 130) ;; *) status=1 ;; esac # a run that was killed has failed
  [[ -z $train_pid ]] || stop "$train_pid" INT
  [[ -z $ray_pid ]] || stop "$ray_pid" TERM
  if [[ -n $temp_dir ]]; then
    if ((status == 1)); then
      rm -f "$temp_dir/token"
      echo "launch: Ray's logs are in $temp_dir" >&2
    else
      rm -rf "$temp_dir"
    fi
  fi
  exit "$status"
}
trap end EXIT
trap 'exit 130' INT TERM HUP

# start COMMAND...: runs it in a session of its own, so that a Ctrl-C reaches it through us, once; its process id is
# in `started`. Should this script be killed outright, the kernel ends the command too.
start() {
  local tie=()
  command -v setpriv >/dev/null && tie=(setpriv --pdeathsig TERM)
  "${tie[@]}" setsid env --default-signal=INT,TERM "$@" &
  started=$!
}

# run_train ARGUMENT...: waits for `mindrl train` in a way that an interruption breaks off.
run_train() {
  local status=0
  start mindrl train "$@"
  train_pid=$started
  wait "$train_pid" || status=$?
  train_pid=""
  return "$status"
}

# Bad requests end here, before anything is started.
if $is_head; then
  run_train "${arguments[@]}" --check
fi
accelerator=$(python - "${arguments[@]}" <<'PYTHON'
import sys
from mindrl.config import load
overrides = [argument for argument in sys.argv[2:] if not argument.startswith("--")]
print(load(sys.argv[1], overrides).hal.accelerator)
PYTHON
) || refuse "$DEFAULT_YAML can't be read; the reason is above"
resources=$(python -m hal launch-args --devices "$NPUS_PER_NODE" --accelerator "$accelerator")
mapfile -t ray_arguments <<<"$resources"

# await_port HOST PORT SECONDS: until something listens there.
await_port() {
  local deadline=$((SECONDS + $3))
  until timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; do
    ((SECONDS < deadline)) || return 1
    [[ -z $ray_pid ]] || kill -0 "$ray_pid" 2>/dev/null || return 1
    sleep 0.2
  done
}

free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("'"$node_ip"'", 0)); print(s.getsockname()[1])'
}

# Socket paths end at 107 bytes, so Ray's session lives in a short directory of its own.
temp_dir=$(mktemp -d /tmp/mindrl-XXXXXX)
export RAY_DISABLE_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0
if [[ -n ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
  export RAY_AUTH_MODE=token
elif ((NNODES == 1)); then
  (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$temp_dir/token")
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$temp_dir/token
else
  export RAY_AUTH_MODE=disabled
  $is_head && echo "launch: no RAY_AUTH_TOKEN: whoever reaches $head_ip can use this cluster" >&2
fi

start_ray() {
  start ray start --block --node-ip-address="$node_ip" --temp-dir="$temp_dir" --disable-usage-stats \
    "${ray_arguments[@]}" "$@" >"$temp_dir/ray_start.log" 2>&1
  ray_pid=$started
}

fail() {
  echo "launch: $1" >&2
  tail -n 20 "$temp_dir/ray_start.log" >&2 || true
  exit 1
}

run_head() {
  local port=${MASTER_PORT:-6379} status=0
  ((NNODES > 1)) || port=${MASTER_PORT:-$(free_port)}
  start_ray --head --port="$port" --include-dashboard=false
  await_port "$node_ip" "$port" "$READY_TIMEOUT" || fail "Ray did not start on $node_ip:$port within $READY_TIMEOUT s"
  export RAY_ADDRESS=$node_ip:$port
  run_train "${arguments[@]}" || status=$?
  exit "$status"
}

# Serves until the first node ends the run.
run_worker() {
  local port=${MASTER_PORT:-6379}
  await_port "$head_ip" "$port" "$JOIN_TIMEOUT" ||
    refuse "nothing answered at $MASTER_ADDR:$port for $JOIN_TIMEOUT s; check MASTER_ADDR and MASTER_PORT, and that the first node has started"
  start_ray --address="$head_ip:$port"
  echo "launch: joined the run of $MASTER_ADDR:$port with $NPUS_PER_NODE worker processes"
  wait "$ray_pid" || true
  ray_pid=""
  sleep 1
  await_port "$head_ip" "$port" 0 && fail "this node's part of Ray ended while the run goes on"
  echo "launch: the first node has ended the run"
}

if $is_head; then run_head; else run_worker; fi
