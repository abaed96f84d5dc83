#!/bin/sh
# Starts a shard node in its pod: `start.sh FLAGS...` is `flotilla node FLAGS...` with the seeds. Only the shell's own words are
# used: the image has no other program.
#
# A node without seeds begins a cluster. That is for one pod and one time: the set's first, its volume not bound to a cluster
# yet, and the file `begin` saying yes. Everybody else, and this pod later, joins through the seeds; if its volume was lost, the
# cluster then tells that its number belongs to another volume, which is the end of this pod until `flotilla ctl replace`, and
# better than a second, empty cluster under the first one's name.
set -eu

is_bound=no
if [ -r "$DATA_DIR/NODE" ]; then
    while read -r word _; do
        if [ "$word" = cluster ]; then is_bound=yes; fi
    done < "$DATA_DIR/NODE"
fi
read -r may_begin < "$START_DIR/begin"

if [ "${POD_NAME##*-}" = 0 ] && [ "$is_bound" = no ] && [ "$may_begin" = yes ]; then
    echo "start.sh: an empty volume, and told to begin: this node begins a cluster" >&2
    exec flotilla node "$@"
fi
while read -r seed; do
    case "$seed" in
        # Itself: nobody there yet.
        "" | "$POD_NAME".*) ;;
        *) set -- "$@" "--seed=$seed" ;;
    esac
done < "$START_DIR/seeds"
exec flotilla node "$@"
