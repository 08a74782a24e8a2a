#!/usr/bin/env bash
# Builds the box of the lab's nodes for the libvirt provider from Debian packages alone, and adds it to
# Vagrant.
#
# No box is downloaded. Packages come from the sources of this host's own apt (sources.sh). The box has this
# host's Debian release, and this host's version of QEMU if apt still has it. The box is kept in
# /var/cache/testbed/boxes and reused as long as this script, the release and the version of QEMU are the
# same. Under sudo, it is added to the Vagrant of the user who called sudo.
#
# A build that fails or is killed leaves nothing behind: its mounts and loop devices are in a namespace that
# ends with it.
#
# Usage: build.sh [--force] [--no-add]
#   --force    build the box even if it exists
#   --no-add   do not add the box to Vagrant; print the path of the catalog for `vagrant box add`
set -euo pipefail

fail() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=testbed/node
force='' add=yes
while [ $# -gt 0 ]; do
    case $1 in
        --force) force=yes ;;
        --no-add) add='' ;;
        --within) within=${2:?}; shift ;; # internal: the build inside namespaces, see below
        *) fail "unknown option $1; the options are --force and --no-add" ;;
    esac
    shift
done

# The size of a node's disk. The image is sparse and takes less.
SIZE_GB=4
# The first sector of the only partition.
FIRST=2048

PACKAGES=(
    # A system that boots and accepts SSH logins.
    systemd-sysv udev dbus kmod openssh-server sudo iproute2 iputils-ping procps netbase
    linux-image-cloud-amd64 initramfs-tools zstd
    # The software of the lab.
    nfs-kernel-server nfs-common qemu-system-x86
)

[ "$(id -u)" = 0 ] || fail "needs root to make a file system; run: sudo $0"
for program in mmdebstrap extlinux sfdisk mkfs.ext4 qemu-img unshare setpriv vagrant; do
    command -v "$program" >/dev/null || missing="${missing:-} $program"
done
if [ -n "${missing:-}" ]; then
    fail "programs not found:$missing; install them: apt-get install vagrant vagrant-libvirt mmdebstrap" \
        "extlinux syslinux-common fdisk e2fsprogs qemu-utils"
fi
mbr=/usr/lib/EXTLINUX/mbr.bin
[ -r "$mbr" ] || fail "$mbr not found; install it: apt-get install extlinux"

# shellcheck source=/dev/null
. /etc/os-release
[ "${ID:-}" = debian ] ||
    fail "builds the box from this host's Debian release, but this is ${PRETTY_NAME:-another system}"
suite=${VERSION_CODENAME:?/etc/os-release names no release}

sources=$("$here/sources.sh" "$suite")
if [ -z "$sources" ]; then
    apt-get update -q || fail "apt-get update failed; is a package source reachable?"
    sources=$("$here/sources.sh" "$suite")
fi
[ -n "$sources" ] || fail "apt has no source of Debian $suite; check /etc/apt/sources.list and sources.list.d"

# This host's version of QEMU, if apt still has it, so that host and nodes run the same QEMU.
qemu=$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null || true)
if [ -n "$qemu" ] && ! apt-cache show "qemu-system-x86=$qemu" >/dev/null 2>&1; then
    printf 'build.sh: apt no longer has QEMU %s; the box gets the newest version instead\n' "$qemu" >&2
    qemu=''
fi

key=$(find /usr/share/rubygems-integration /opt/vagrant /usr/share/vagrant -path '*/keys/vagrant.pub' \
    2>/dev/null | head -n 1 || true)
[ -n "$key" ] || fail "cannot find Vagrant's public key (keys/vagrant.pub) in the folders of its packages"

digest=$({ cat "${BASH_SOURCE[0]}" "$here/sources.sh" "$key"; printf '%s\n' "$suite" "$qemu"; } |
    sha256sum | cut -c 1-16)
boxes=/var/cache/testbed/boxes
box=$boxes/$suite-$digest
install -d -m 755 "$boxes"

build() {
    local work=$1 root=$1/root raw=$1/disk.raw mount=$1/mnt kernel
    mkdir "$mount"
    printf '%s\n' "$sources" >"$work/debian.sources"
    local options=(--variant=minbase --include="$(IFS=,; printf '%s' "${PACKAGES[*]}")")
    options+=(--aptopt='APT::Install-Recommends "false"')
    # The proxy settings of this host's apt.
    local proxy
    while read -r proxy; do
        options+=(--aptopt="$proxy")
    done < <(apt-config dump | grep -E '^Acquire::[a-z]+::Proxy' || true)
    options+=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*')
    options+=(--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright')
    if [ -n "$qemu" ]; then
        # Pin QEMU, and the installed backports it depends on (firmware, for example), to this host's
        # versions.
        printf 'Package: src:qemu\nPin: version %s\nPin-Priority: 995\n\n' "$qemu" >"$work/qemu.pref"
        local each
        # dpkg-query fails for virtual packages, which have no version; that is ignored.
        # shellcheck disable=SC2016
        each=$(apt-cache depends --recurse --installed --no-recommends --no-suggests --no-enhances \
            --no-breaks --no-conflicts --no-replaces qemu-system-x86 | grep -E '^[a-z0-9]' | sort -u |
            xargs dpkg-query -W -f '${Package} ${Version}\n' 2>/dev/null || true)
        awk '$2 ~ /~bpo/ { print "Package: " $1 "\nPin: version " $2 "\nPin-Priority: 995\n" }' <<<"$each" \
            >>"$work/qemu.pref"
        options+=(--setup-hook="mkdir -p \"\$1/etc/apt/preferences.d\"
            cp '$work/qemu.pref' \"\$1/etc/apt/preferences.d/qemu.pref\"")
    fi
    # A small initramfs, with the disk's drivers only, boots faster on an emulated CPU.
    # shellcheck disable=SC2016
    options+=(--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"
        echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"
        printf "virtio_pci\nvirtio_blk\next4\n" >"$1/etc/initramfs-tools/modules"')
    mmdebstrap "${options[@]}" "$suite" "$root" "$work/debian.sources"

    # The user that Vagrant logs in as, with Vagrant's public key, which it replaces at the first `vagrant
    # up`.
    chroot "$root" useradd -m -s /bin/bash vagrant
    install -m 440 /dev/stdin "$root/etc/sudoers.d/vagrant" <<<'vagrant ALL=(ALL) NOPASSWD: ALL'
    install -d -m 700 "$root/home/vagrant/.ssh"
    install -m 600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
    chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
    printf 'UseDNS no\nGSSAPIAuthentication no\nPasswordAuthentication no\n' \
        >"$root/etc/ssh/sshd_config.d/lab.conf"
    # Each node makes its own host keys and machine ID.
    rm -f "$root"/etc/ssh/ssh_host_*
    : >"$root/etc/machine-id"
    cat >"$root/etc/systemd/system/ssh-host-keys.service" <<'UNIT'
[Unit]
Description=Make this node's SSH host keys
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=ssh.service
UNIT
    echo 'HostKey /etc/ssh/ssh_host_ed25519_key' >>"$root/etc/ssh/sshd_config.d/lab.conf"
    echo node >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 node\n' >"$root/etc/hosts"
    echo '/dev/vda1 / ext4 noatime,errors=remount-ro 0 1' >"$root/etc/fstab"
    # Vagrant's own network. DHCP identifies the node by its MAC address, since the machine ID is only made
    # at the first boot.
    printf '%s\n' '[Match]' Name=eth0 \
        '[Network]' DHCP=ipv4 LinkLocalAddressing=no IPv6AcceptRA=no '[DHCPv4]' ClientIdentifier=mac \
        >"$root/etc/systemd/network/10-eth0.network"
    chroot "$root" systemctl --quiet enable systemd-networkd ssh ssh-host-keys serial-getty@ttyS0
    chroot "$root" systemctl --quiet disable nfs-server
    chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer fstrim.timer nfs-blkmap.service
    rm -rf "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin \
        "$root"/var/cache/apt/archives/*.deb
    kernel=$(cd "$root/boot" && printf '%s\n' vmlinuz-* | sort -V | tail -n 1)
    kernel=${kernel#vmlinuz-}

    truncate -s "${SIZE_GB}G" "$raw"
    echo "$FIRST,,L,*" | sfdisk -q "$raw"
    dd if="$mbr" of="$raw" bs=440 count=1 conv=notrunc status=none
    # The features are listed because extlinux cannot read some that newer versions of mkfs.ext4 enable.
    local features=none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super
    features+=,large_file,huge_file,dir_nlink,extra_isize
    mkfs.ext4 -q -m 0 -O "$features" \
        -E "offset=$((FIRST * 512)),root_owner=0:0" "$raw" "$((SIZE_GB * 1024 * 1024 - FIRST / 2))k"
    # The loop device is freed with the mount, and the mount ends with the namespace.
    mount -o "loop,offset=$((FIRST * 512))" "$raw" "$mount" ||
        fail "cannot mount $raw; is a loop device free?"
    cp -a "$root/." "$mount/"
    local arguments="initrd=/boot/initrd.img-$kernel root=/dev/vda1 rw net.ifnames=0 biosdevname=0"
    arguments+=' console=tty0 console=ttyS0,115200 mitigations=off quiet'
    cat >"$mount/boot/extlinux.conf" <<CONF
default linux
prompt 0
timeout 1
label linux
 kernel /boot/vmlinuz-$kernel
 append $arguments
CONF
    extlinux --install "$mount/boot"
    umount "$mount"
    qemu-img convert -O qcow2 -c "$raw" "$work/box.img"
    printf '{"provider":"libvirt","format":"qcow2","virtual_size":%d}\n' "$SIZE_GB" >"$work/metadata.json"
    mkdir "$work/done"
    tar -C "$work" -cf "$work/done/node.box" metadata.json box.img
    rm -rf "$box"
    # The version is the time, so that Vagrant and libvirt's pool tell a rebuilt box from the old one.
    cat >"$work/done/catalog.json" <<JSON
{ "name": "$name", "versions": [{ "version": "$(date -u +%Y%m%d.%H%M%S).0",
  "providers": [{ "name": "libvirt", "url": "file://$box/node.box" }] }] }
JSON
    chmod 755 "$work/done"
    mv "$work/done" "$box"
}

if [ -n "${within:-}" ]; then
    build "$within"
    exit
fi
if [ -n "$force" ] || [ ! -e "$box/catalog.json" ]; then
    # Files of earlier builds that were killed.
    rm -rf "$boxes"/.new.*
    work=$(mktemp -d "$boxes/.new.XXXXXX")
    child=''
    trap 'rm -rf "$work"' EXIT
    trap '[ -z "$child" ] || kill -KILL "$child"; wait; exit 130' INT TERM HUP
    printf 'build.sh: building a box of Debian %s%s\n' "$suite" "${qemu:+ with QEMU $qemu}" >&2
    # setpriv ends the build with this script, even if the script is killed.
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child=KILL \
        --mount-proc "$here/build.sh" --within "$work" </dev/null >&2 &
    child=$!
    wait "$child" || fail "building the box failed, see above"
    child=''
    # Remove boxes of older versions of this script, which would never be used again.
    find "$boxes" -mindepth 1 -maxdepth 1 ! -path "$box" ! -path "$work" -exec rm -rf {} +
fi

if [ -z "$add" ]; then
    printf '%s\n' "$box/catalog.json"
    exit
fi
version=$(sed -n 's/.*"version": "\([^"]*\)".*/\1/p' "$box/catalog.json")
vagrant=(vagrant) home=${VAGRANT_HOME:-$HOME/.vagrant.d}
if [ "${SUDO_USER:-root}" != root ]; then
    vagrant=(sudo -H -u "$SUDO_USER" vagrant) home=$(getent passwd "$SUDO_USER" | cut -d : -f 6)/.vagrant.d
fi
if [ ! -d "$home/boxes/${name//\//-VAGRANTSLASH-}/$version/libvirt" ]; then
    "${vagrant[@]}" box add --provider libvirt "$box/catalog.json" || fail "vagrant box add failed"
fi
printf 'build.sh: Vagrant has the box %s %s\n' "$name" "$version" >&2
