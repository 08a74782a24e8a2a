#!/usr/bin/env bash
# Builds the box of the lab's nodes for the provider libvirt, from Debian's packages alone, and adds it to Vagrant.
#
# No box is downloaded. Packages come from where this machine's own apt gets them (sources.sh). The box is of this
# machine's Debian release, with the QEMU of this machine where apt still has it. What is built is kept in
# /var/cache/testbed/boxes and is not built again while this recipe, the release and QEMU's version are the same.
# Under sudo, it is added to the Vagrant of the user who called that.
#
# Nothing is left by a build that fails or is killed: mounts and loop devices are in a namespace that ends with it.
#
# Usage: build.sh [--force] [--no-add]
#   --force    build it even if it is there
#   --no-add   do not add it to Vagrant; print the catalog that `vagrant box add` takes
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
        --within) within=${2:?}; shift ;; # for itself only, see below
        *) fail "unknown option $1; options are --force and --no-add" ;;
    esac
    shift
done

# The disk of a node; it takes what it needs of that.
SIZE_GB=4
# The first sector of its only partition.
FIRST=2048

PACKAGES=(
    # A system that boots and is reached by SSH.
    systemd-sysv udev dbus kmod openssh-server sudo iproute2 iputils-ping procps netbase
    linux-image-cloud-amd64 initramfs-tools zstd
    # What the nodes are for.
    nfs-kernel-server nfs-common qemu-system-x86
)

[ "$(id -u)" = 0 ] || fail "needs root, to make a file system: sudo $0"
for program in mmdebstrap extlinux sfdisk mkfs.ext4 qemu-img unshare setpriv vagrant; do
    command -v "$program" >/dev/null || missing="${missing:-} $program"
done
if [ -n "${missing:-}" ]; then
    fail "there is no$missing; on Debian: apt-get install vagrant vagrant-libvirt mmdebstrap extlinux" \
        "syslinux-common fdisk e2fsprogs qemu-utils"
fi
mbr=/usr/lib/EXTLINUX/mbr.bin
[ -r "$mbr" ] || fail "there is no $mbr (Debian's package extlinux)"

# shellcheck source=/dev/null
. /etc/os-release
[ "${ID:-}" = debian ] || fail "builds a box of the Debian that it runs on; this is ${PRETTY_NAME:-another system}"
suite=${VERSION_CODENAME:?/etc/os-release names no release}

sources=$("$here/sources.sh" "$suite")
if [ -z "$sources" ]; then
    apt-get update -q || fail "apt-get update failed; is a package source reachable?"
    sources=$("$here/sources.sh" "$suite")
fi
[ -n "$sources" ] || fail "apt has no source of Debian $suite here (see /etc/apt/sources.list and sources.list.d)"

# This machine's QEMU, if apt can still get it: both are then the same.
qemu=$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null || true)
if [ -n "$qemu" ] && ! apt-cache show "qemu-system-x86=$qemu" >/dev/null 2>&1; then
    printf 'build.sh: apt has no QEMU %s any more; the box gets its newest\n' "$qemu" >&2
    qemu=''
fi

key=$(find /usr/share/rubygems-integration /opt/vagrant /usr/share/vagrant -path '*/keys/vagrant.pub' 2>/dev/null | head -n 1 || true)
[ -n "$key" ] || fail "Vagrant's public key (keys/vagrant.pub) is not where its packages have it"

digest=$({ cat "${BASH_SOURCE[0]}" "$here/sources.sh" "$key"; printf '%s\n' "$suite" "$qemu"; } | sha256sum | cut -c 1-16)
boxes=/var/cache/testbed/boxes
box=$boxes/$suite-$digest
install -d -m 755 "$boxes"

build() {
    local work=$1 root=$1/root raw=$1/disk.raw mount=$1/mnt kernel
    mkdir "$mount"
    printf '%s\n' "$sources" >"$work/debian.sources"
    local options=(--variant=minbase --include="$(IFS=,; printf '%s' "${PACKAGES[*]}")")
    options+=(--aptopt='APT::Install-Recommends "false"')
    # How this machine's apt gets through to its sources.
    local proxy
    while read -r proxy; do options+=(--aptopt="$proxy"); done < <(apt-config dump | grep -E '^Acquire::[a-z]+::Proxy' || true)
    options+=(--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*')
    options+=(--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright')
    if [ -n "$qemu" ]; then
        # With what it needs of the same suite: firmware, for example.
        printf 'Package: src:qemu\nPin: version %s\nPin-Priority: 995\n\n' "$qemu" >"$work/qemu.pref"
        local each
        # A package that is only provided by others has no version.
        # shellcheck disable=SC2016
        each=$(apt-cache depends --recurse --installed --no-recommends --no-suggests --no-enhances --no-breaks \
            --no-conflicts --no-replaces qemu-system-x86 | grep -E '^[a-z0-9]' | sort -u |
            xargs dpkg-query -W -f '${Package} ${Version}\n' 2>/dev/null || true)
        awk '$2 ~ /~bpo/ { print "Package: " $1 "\nPin: version " $2 "\nPin-Priority: 995\n" }' <<<"$each" >>"$work/qemu.pref"
        options+=(--setup-hook="mkdir -p \"\$1/etc/apt/preferences.d\"; cp '$work/qemu.pref' \"\$1/etc/apt/preferences.d/qemu.pref\"")
    fi
    # A small initramfs boots faster where the processor is emulated: just what the disk takes.
    # shellcheck disable=SC2016
    options+=(--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"
        echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"
        printf "virtio_pci\nvirtio_blk\next4\n" >"$1/etc/initramfs-tools/modules"')
    mmdebstrap "${options[@]}" "$suite" "$root" "$work/debian.sources"

    # The user that Vagrant logs in as, with the key that it replaces at the first `vagrant up`.
    chroot "$root" useradd -m -s /bin/bash vagrant
    install -m 440 /dev/stdin "$root/etc/sudoers.d/vagrant" <<<'vagrant ALL=(ALL) NOPASSWD: ALL'
    install -d -m 700 "$root/home/vagrant/.ssh"
    install -m 600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
    chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
    printf 'UseDNS no\nGSSAPIAuthentication no\nPasswordAuthentication no\n' >"$root/etc/ssh/sshd_config.d/lab.conf"
    # Each node makes its own.
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
    # Vagrant's own network. By the address of the card, for the machine's identity is made at its first boot.
    printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n[DHCPv4]\nClientIdentifier=mac\n' \
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
    # Features by name: extlinux cannot read what newer versions of mkfs choose besides.
    mkfs.ext4 -q -m 0 -O none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize \
        -E "offset=$((FIRST * 512)),root_owner=0:0" "$raw" "$((SIZE_GB * 1024 * 1024 - FIRST / 2))k"
    # The loop device goes with the mount, and the mount with the namespace.
    mount -o "loop,offset=$((FIRST * 512))" "$raw" "$mount" || fail "cannot mount $raw: is there a free loop device?"
    cp -a "$root/." "$mount/"
    cat >"$mount/boot/extlinux.conf" <<CONF
default linux
prompt 0
timeout 1
label linux
 kernel /boot/vmlinuz-$kernel
 append initrd=/boot/initrd.img-$kernel root=/dev/vda1 rw net.ifnames=0 biosdevname=0 console=tty0 console=ttyS0,115200 mitigations=off quiet
CONF
    extlinux --install "$mount/boot"
    umount "$mount"
    qemu-img convert -O qcow2 -c "$raw" "$work/box.img"
    printf '{"provider":"libvirt","format":"qcow2","virtual_size":%d}\n' "$SIZE_GB" >"$work/metadata.json"
    mkdir "$work/done"
    tar -C "$work" -cf "$work/done/node.box" metadata.json box.img
    rm -rf "$box"
    # With a version, so that one that is built later is another one to Vagrant and to libvirt's pool.
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
    # What an earlier build left that could not clean up.
    rm -rf "$boxes"/.new.*
    work=$(mktemp -d "$boxes/.new.XXXXXX")
    child=''
    trap 'rm -rf "$work"' EXIT
    trap '[ -z "$child" ] || kill -KILL "$child"; wait; exit 130' INT TERM HUP
    printf 'build.sh: building a box of Debian %s%s\n' "$suite" "${qemu:+ with QEMU $qemu}" >&2
    # It ends with this script, also when that is killed.
    setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
        "$here/build.sh" --within "$work" </dev/null >&2 &
    child=$!
    wait "$child" || fail "no box: see above"
    child=''
    # The boxes of other recipes, which nobody would find again.
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
    "${vagrant[@]}" box add --provider libvirt "$box/catalog.json" || fail "vagrant does not take the box"
fi
printf 'build.sh: the box %s %s is there\n' "$name" "$version" >&2
