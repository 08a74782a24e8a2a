#!/bin/sh
# Mounts the controller's /srv/images now and at every boot. At boot, mounting continues in the background
# until the controller is up.
set -eu
server=$1
install -d /srv/images
line="$server:/srv/images /srv/images nfs vers=4.2,_netdev,nofail,bg 0 0"
if ! grep -qxF "$line" /etc/fstab; then
    sed -i '\|[[:space:]]/srv/images[[:space:]]|d' /etc/fstab
    echo "$line" >>/etc/fstab
fi
systemctl daemon-reload
systemctl --quiet enable remote-fs.target
mountpoint -q /srv/images || mount -o fg /srv/images
# The mount may be from another server if LAB_STORAGE was changed.
if [ "$(findmnt -n -o SOURCE /srv/images)" != "$server:/srv/images" ]; then
    umount /srv/images
    mount -o fg /srv/images
fi
findmnt /srv/images
