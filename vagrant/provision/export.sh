#!/bin/sh
# Exports /srv/images to the storage network. The user that SSH logs in as puts the guests' files there.
set -eu
network=$1
install -d -m 755 -o vagrant -g vagrant /srv/images
# Not /etc/exports: that may hold other things.
install -d /etc/exports.d
echo "/srv/images $network(rw,sync,no_subtree_check)" >/etc/exports.d/lab.exports
systemctl --quiet enable nfs-server
systemctl start nfs-server
exportfs -ra
exportfs -s
