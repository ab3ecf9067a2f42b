# Sourced by the other scripts. The cache folder is $BEEHIVE_KUBE, else ~/.cache/beehive-kubernetes: programs in bin/, what
# runs in run/ (keys, data, logs, process ids).
set -euo pipefail
home=${BEEHIVE_KUBE:-$HOME/.cache/beehive-kubernetes}
bin=$home/bin run=$home/run netns=beehive-kube port=16443
kubeconfig=$run/conf/admin.conf
PATH=$PATH:/usr/sbin:/sbin

case $home in /tmp/*) echo "BEEHIVE_KUBE cannot be below /tmp: hollow nodes have a /tmp of their own" >&2; exit 1 ;; esac

die() { echo "$*" >&2; exit 1; }

# Runs the calling script again inside the network namespace, which has loopback only: kubelets probe addresses that exist
# on clouds, and two runs on one machine must not meet.
inside_namespace() {
    [ "$(ip netns identify $$)" != "$netns" ] || return 0
    if ! ip netns list | grep -qw "$netns"; then
        ip netns add "$netns"
        ip -n "$netns" link set lo up
        ip -n "$netns" addr add 10.77.0.1/32 dev lo
        ip -n "$netns" route add default dev lo src 10.77.0.1
        ip -n "$netns" route add unreachable 169.254.0.0/16
    fi
    exec ip netns exec "$netns" "$0" "$@"
}

# start NAME COMMAND ARGS...: in the background, with its log and its process id under $run.
start() {
    local name=$1; shift
    setsid "$@" >>"$run/log/$name.log" 2>&1 </dev/null &
    echo $! >"$run/$name.pid"
}
