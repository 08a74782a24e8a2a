#!/bin/sh
# Brings the given interfaces up, now and at every boot, without addresses. Only runs of `testbed` use them.
set -eu
for wire in "$@"; do
    if [ ! -e "/sys/class/net/$wire" ]; then
        echo "interface $wire not found; the box must name interfaces eth0, eth1 and so on (net.ifnames=0)." \
            "Found: $(ls /sys/class/net)" >&2
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
Description=Bring up the interfaces of testbed's lab
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
