#!/bin/sh
# Exports /srv/images to the storage network by NFS. `testbed` copies the guests' files there as the user
# vagrant.
set -eu
network=$1
install -d -m 755 -o vagrant -g vagrant /srv/images
# A file of its own, because /etc/exports may have other entries.
install -d /etc/exports.d
echo "/srv/images $network(rw,sync,no_subtree_check)" >/etc/exports.d/lab.exports
systemctl --quiet enable nfs-server
systemctl start nfs-server
exportfs -ra
exportfs -s
