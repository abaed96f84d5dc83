#!/bin/sh
# Lays out the root of the image: image-root.sh BINARY FOLDER.
#
# The binary with the shared libraries that it names (glibc: musl's allocator is slow where many threads allocate), busybox as
# `sh` alone, a user, and a folder for data that belongs to it.
set -eu

binary=$1
root=$2
user=65532

mkdir -p "$root/usr/local/bin" "$root/bin" "$root/etc" "$root/var/lib/flotilla" "$root/tmp"
cp "$binary" "$root/usr/local/bin/flotilla"
# `=> /path (0x..)` for libraries, `/path (0x..)` for the loader.
ldd "$binary" | sed -n 's,.*=> \(/[^ ]*\) .*,\1,p; s,^[[:space:]]*\(/[^ ]*\) .*,\1,p' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# It runs the applet that it is called as; with no links to it there are no others.
cp "$(command -v busybox)" "$root/bin/sh"
echo "flotilla:x:$user:$user::/var/lib/flotilla:/bin/sh" > "$root/etc/passwd"
echo "flotilla:x:$user:" > "$root/etc/group"
# Names come from /etc/hosts, then DNS.
echo "hosts: files dns" > "$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
chown "$user:$user" "$root/var/lib/flotilla"
