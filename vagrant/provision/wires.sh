#!/bin/sh
# Keeps these interfaces up, now and after every boot, without addresses: a run uses them, and nothing else does.
set -eu
for wire in "$@"; do
    if [ ! -e "/sys/class/net/$wire" ]; then
        echo "there is no interface $wire; the box has to call them eth0, eth1 and so on (net.ifnames=0): $(ls /sys/class/net)" >&2
        exit 1
    fi
done
cat >/usr/local/sbin/lab-wires <<SCRIPT
#!/bin/sh
set -eu
for wire in $*; do
    echo 1 >"/proc/sys/net/ipv6/conf/\$wire/disable_ipv6"
    ip link set "\$wire" up
done
SCRIPT
chmod 755 /usr/local/sbin/lab-wires
cat >/etc/systemd/system/lab-wires.service <<'UNIT'
[Unit]
Description=Bring up the lab's wires
After=systemd-udev-settle.service network-pre.target systemd-networkd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-wires
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl --quiet enable lab-wires
systemctl restart lab-wires
