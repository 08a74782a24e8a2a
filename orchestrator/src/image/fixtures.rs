//! Minimal modules, programs and kernels for tests: just enough of each file to be accepted.

use super::compress::Format;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

pub(crate) const RELEASE: &str = "6.1.0-test-amd64";

fn elf_header(phnum: u16, shoff: u64, shnum: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend(1_u16.to_le_bytes()); // type
    bytes.extend(62_u16.to_le_bytes()); // machine: x86-64
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes()); // entry
    bytes.extend(if phnum > 0 { 64_u64 } else { 0 }.to_le_bytes());
    bytes.extend(shoff.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes()); // flags
    for half in [64, 56, phnum, 64, shnum, if shnum > 0 { 2 } else { 0 }] {
        bytes.extend(half.to_le_bytes());
    }
    bytes
}

/// Builds an ELF program that is linked dynamically or statically.
pub(crate) fn program(dynamic: bool) -> Vec<u8> {
    let mut bytes = elf_header(1, 0, 0);
    bytes.extend(if dynamic { 3_u32 } else { 1 }.to_le_bytes()); // PT_INTERP, PT_LOAD
    bytes.extend([0; 52]);
    bytes
}

/// Builds an ELF file with a `.modinfo` section, like a kernel module's.
pub(crate) fn module(name: &str, depends: &str, vermagic: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0name={name}\0vermagic={vermagic}\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let info_at = 64;
    let names_at = info_at + info.len() as u64;
    let table_at = names_at + names.len() as u64;
    let mut bytes = elf_header(0, table_at, 3);
    bytes.extend(info.as_bytes());
    bytes.extend(names);
    let mut section = |name: u32, kind: u32, offset: u64, size: u64| {
        bytes.extend(name.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        for field in [0, 0, offset, size, 0, 1, 0] {
            // sh_link and sh_info, of 32 bits each, together are one of these fields.
            bytes.extend(u64::to_le_bytes(field));
        }
    };
    section(0, 0, 0, 0);
    section(1, 1, info_at, info.len() as u64);
    section(10, 3, names_at, names.len() as u64);
    bytes
}

/// Builds an ELF file like a kernel's, with a note of this name and type.
pub(super) fn vmlinux(name: &str, kind: u32) -> Vec<u8> {
    let mut notes = Vec::new();
    let mut note = |name: &str, kind: u32, content: &[u8]| {
        for field in [name.len() as u32 + 1, content.len() as u32, kind] {
            notes.extend(field.to_le_bytes());
        }
        for part in [format!("{name}\0").as_bytes(), content] {
            notes.extend(part);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
    };
    note("Xen", 6, b"linux\0");
    note(name, kind, &0x100_0850_u64.to_le_bytes());
    let mut bytes = elf_header(1, 0, 0);
    bytes.extend(4_u32.to_le_bytes()); // PT_NOTE
    bytes.extend(4_u32.to_le_bytes()); // readable
    let size = notes.len() as u64;
    for field in [64 + 56, 0, 0, size, size, 4] {
        bytes.extend(u64::to_le_bytes(field));
    }
    bytes.extend(notes);
    bytes
}

/// Builds the payload of a bzImage: the compressed bytes, then the decompressed size, unless the format
/// itself ends with that size (gzip).
pub(super) fn payload(format: Format, plain: &[u8]) -> Vec<u8> {
    let (_, compress) = COMPRESSORS.into_iter().find(|(candidate, _)| *candidate == format).unwrap();
    let mut bytes = compress(plain);
    if format != Format::Gzip {
        bytes.extend((plain.len() as u32).to_le_bytes());
    }
    bytes
}

/// Builds a bzImage of this release with this payload and some code before and after it.
pub(super) fn bzimage(release: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = kernel(release);
    bytes[0x1f1] = 1;
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    bytes[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend([0x90; 16]);
    bytes.extend(payload);
    bytes.extend([0x90; 16]);
    bytes
}

/// Builds the start of a bzImage, with a boot header that names this release.
pub(crate) fn kernel(release: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    let text = format!("{release} (builder@host) #1 SMP");
    bytes[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::default();
    // The options that the kernel's build uses.
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::default();
    let mut encoder = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
    for block in bytes.chunks(64 << 10) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

type Compress = fn(&[u8]) -> Vec<u8>;

/// The compressors, by format.
pub(super) const COMPRESSORS: [(Format, Compress); 5] =
    [(Format::Gzip, gzip), (Format::Xz, xz), (Format::Lzma, lzma), (Format::Zstd, zstd), (Format::Lz4, lz4)];

/// Some modules of a distribution's kernel: the directory, the name, and the dependencies as its `.modinfo`
/// section lists them.
pub(crate) const MODULES: [(&str, &str, &str); 11] = [
    ("drivers/virtio", "virtio", "virtio_ring"),
    ("drivers/virtio", "virtio_ring", ""),
    ("drivers/virtio", "virtio_pci_legacy_dev", ""),
    ("drivers/virtio", "virtio_pci_modern_dev", ""),
    ("drivers/virtio", "virtio_pci", "virtio_ring,virtio_pci_modern_dev,virtio_pci_legacy_dev,virtio"),
    ("drivers/char", "virtio_console", "virtio_ring,virtio"),
    ("net/core", "failover", ""),
    ("drivers/net", "net_failover", "failover"),
    ("drivers/net", "virtio_net", "virtio_ring,virtio,net_failover"),
    ("drivers/block", "virtio_blk", "virtio_ring,virtio"),
    ("drivers/virtio", "virtio_balloon", "virtio_ring,virtio"),
];

/// A directory like an unpacked kernel package: `boot/vmlinuz-RELEASE` and `lib/modules/RELEASE`.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Self {
        let tree = Self { root: root.to_path_buf() };
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(tree.image(), kernel(RELEASE)).unwrap();
        for (folder, name, depends) in MODULES {
            tree.put(folder, &format!("{name}.ko"), &module(name, depends, &format!("{RELEASE} SMP ")));
        }
        fs::write(tree.modules().join("modules.builtin"), "kernel/drivers/tty/serial/8250/8250.ko\n")
            .unwrap();
        tree
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{RELEASE}"))
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(RELEASE)
    }

    pub(crate) fn put(&self, folder: &str, file: &str, bytes: &[u8]) {
        let folder = self.modules().join("kernel").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(file), bytes).unwrap();
    }

    pub(crate) fn remove(&self, folder: &str, file: &str) {
        fs::remove_file(self.modules().join("kernel").join(folder).join(file)).unwrap();
    }
}
