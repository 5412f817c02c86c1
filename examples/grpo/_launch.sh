#!/usr/bin/env bash
# The common part of every launch script: Ray on this node, the run on the first node, and a clean end of both.
#
#   DEFAULT_YAML=configs/grpo_quickstart.yaml bash examples/grpo/_launch.sh [YAML] [key=value ...] [--overwrite]
#
# The same command runs on every node. What it takes from the environment (docs/launch.md says more):
#   DEFAULT_YAML    the run's configuration: a path in the checkout, or a name in configs/; the argument YAML goes before
#   NNODES          nodes of the run (1)
#   NPUS_PER_NODE   worker processes, one device each, on every node (as many as this node has devices)
#   MASTER_ADDR     address of the first node (127.0.0.1 when there is one node)
#   CURRENT_IP      address of this node (the one from which it reaches MASTER_ADDR)
#   MASTER_PORT     port of Ray on the first node (6379; a free one when there is one node)
#   JOIN_TIMEOUT    seconds that the nodes wait for each other (cluster.join_timeout_seconds of the configuration)
#   RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH   a secret shared by the nodes; without one, a run over several nodes goes
#                   without authentication
# Exit codes: 0 done, 1 failed, 2 a request that can't be served, 130 interrupted.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v mindrl >/dev/null || PATH=$PWD/.venv/bin:$PATH

READY_TIMEOUT=60 # seconds for Ray's own start on this node
QUIT_TIMEOUT=4   # seconds that the run, and then Ray, may take to end before they are killed

command -v mindrl >/dev/null || {
  echo "launch: there is no mindrl command here; make the environment first: bash requirements/install.sh" >&2
  exit 2
}

# This node's part in the run, or why there can be none: sets the variables in small letters below.
num_nodes="" num_devices="" head_ip="" node_ip="" port="" join_timeout="" is_head="" interface=""
arguments=() ray_arguments=()
part=$(python -m mindrl.cluster.launch read "$@")
eval "$part"
export MINDRL_INTERFACE=$interface # carries the workers' collectives

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
if $is_head; then run_train "${arguments[@]}" --check; fi

await_port() { # HOST PORT SECONDS: until something listens there
  local deadline=$((SECONDS + $3))
  until timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; do
    ((SECONDS < deadline)) || return 1
    kill -0 "$ray_pid" 2>/dev/null || return 1
    sleep 0.2
  done
}

# Socket paths end at 107 bytes, so Ray's session lives in a short directory of its own.
temp_dir=$(mktemp -d /tmp/mindrl-XXXXXX)
export RAY_DISABLE_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0
if [[ -n ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
  export RAY_AUTH_MODE=token
elif ((num_nodes == 1)); then
  (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$temp_dir/token")
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$temp_dir/token
else
  export RAY_AUTH_MODE=disabled
  $is_head && echo "launch: no RAY_AUTH_TOKEN: whoever reaches $head_ip can use this cluster" >&2
fi

# Workers take free ports, so that MASTER_PORT may lie anywhere.
start_ray() {
  start ray start --block --node-ip-address="$node_ip" --temp-dir="$temp_dir" --disable-usage-stats \
    --min-worker-port=0 --max-worker-port=0 "${ray_arguments[@]}" "$@" >"$temp_dir/ray_start.log" 2>&1
  ray_pid=$started
}

fail() {
  echo "launch: $1" >&2
  tail -n 20 "$temp_dir/ray_start.log" >&2 || true
  exit 1
}

run_head() {
  local status=0
  start_ray --head --port="$port" --include-dashboard=false
  await_port "$node_ip" "$port" "$READY_TIMEOUT" || fail "Ray did not start on $node_ip:$port within $READY_TIMEOUT s"
  export RAY_ADDRESS=$node_ip:$port
  run_train "${arguments[@]}" || status=$?
  exit "$status"
}

# Serves until the first node ends the run.
run_worker() {
  local refused=0 status
  start python -m mindrl.cluster.launch await "$head_ip" "$port" "$join_timeout"
  train_pid=$started
  wait "$train_pid" || exit
  train_pid=""
  start_ray --address="$head_ip:$port"
  echo "launch: joining the run of $head_ip:$port with $num_devices worker processes"
  # A port that refuses means that Ray has ended there. Ray itself takes a minute to believe it.
  while ((refused < 3)); do
    kill -0 "$ray_pid" 2>/dev/null || fail "this node's part of Ray ended while the run goes on"
    sleep 1
    status=0
    timeout 2 bash -c "exec 3<>/dev/tcp/$head_ip/$port" 2>/dev/null || status=$?
    if ((status == 1)); then refused=$((refused + 1)); else refused=0; fi
  done
  echo "launch: the first node has ended the run"
}

if $is_head; then run_head; else run_worker; fi
