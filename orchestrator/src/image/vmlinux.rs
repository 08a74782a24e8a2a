//! Decompresses the kernel inside a kernel image on the host, so that guests need not do it at each boot.
//!
//! Distributions ship a bzImage: a small program that contains the kernel proper (vmlinux) in compressed form
//! and decompresses it at each boot. With an emulated CPU, that takes a long time: with Debian's cloud kernel
//! under TCG, 0.4 s of the 2.53 s from QEMU's start to the stressor's first line. With the kernel
//! decompressed here, once, and given to QEMU as an ELF file, the same guest took 2.12 s.
//!
//! QEMU starts an ELF file at the address in its PVH note, which kernels built with `CONFIG_PVH` have. An
//! image whose kernel has no PVH note, or that cannot be decompressed here, is booted unchanged.

use super::{compress::Format, elf};

/// Part of the digest of a decompressed kernel; changed whenever the same image may give another result.
pub(super) const FORMAT: &str = "testbed-vmlinux-1";

/// The maximum size of a decompressed kernel. Debian's cloud kernel has 51 MiB; an image could claim 4 GiB.
const MAX_BYTES: usize = 512 << 20;

/// The form in which a guest's kernel is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The kernel decompresses itself in the guest, as it does on hardware.
    Compressed,
    /// The kernel was decompressed on the host and is entered directly (PVH), which makes the boot shorter.
    Uncompressed,
}

/// The compressed kernel in a bzImage, which Linux's boot protocol calls the payload.
#[derive(Debug)]
pub(super) struct CompressedKernel<'a> {
    format: Format,
    stream: &'a [u8],
    /// The size of the decompressed kernel, in bytes.
    size: usize,
}

impl<'a> CompressedKernel<'a> {
    /// Finds the compressed kernel in a bzImage, without decompressing it. Returns `None` for another kind of
    /// file and for an unknown compression format.
    ///
    /// The header is described in Linux's Documentation/arch/x86/boot.rst.
    pub(super) fn find(image: &'a [u8]) -> Option<Self> {
        /// The first version of the header that has the position of the payload.
        const HAS_PAYLOAD: u16 = 0x208;
        const SECTOR: usize = 512;
        let word = |at: usize| -> Option<usize> {
            let (bytes, _) = image.get(at..)?.split_first_chunk()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        };
        let (version, _) = image.get(0x206..)?.split_first_chunk()?;
        if image.get(0x202..0x206)? != b"HdrS" || u16::from_le_bytes(*version) < HAS_PAYLOAD {
            return None;
        }
        let setup_sectors = match image.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(*sectors),
        };
        let start = ((setup_sectors + 1) * SECTOR).checked_add(word(0x248)?)?;
        let payload = image.get(start..start.checked_add(word(0x24c)?)?)?;
        let format = Format::of(payload)?;
        // The kernel's build appends the decompressed size to the compressor's output, except for gzip, whose
        // format already ends with it.
        let (stream, size) = payload.split_last_chunk()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        Some(Self { format, stream: if format == Format::Gzip { payload } else { stream }, size })
    }

    /// Decompresses the kernel. Returns `None` if it is damaged or if QEMU cannot start it.
    pub(super) fn decompress(&self) -> Option<Vec<u8>> {
        let kernel = self.format.decompress(self.stream, self.size.min(MAX_BYTES)).ok()?;
        (kernel.len() == self.size && elf::has_pvh_entry(&kernel)).then_some(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{COMPRESSORS, RELEASE, bzimage, kernel, payload, program, vmlinux};
    use super::*;

    /// Returns a kernel with the table of addresses to relocate that the kernel's build appends.
    fn relocatable() -> Vec<u8> {
        let mut plain = vmlinux("Xen", 18);
        plain.extend((0..200_000_u32).flat_map(|n| (n / 5).to_le_bytes()));
        plain
    }

    fn extracted(image: &[u8]) -> Option<Vec<u8>> {
        CompressedKernel::find(image).and_then(|kernel| kernel.decompress())
    }

    #[test]
    fn each_format_is_decompressed() {
        for (format, _) in COMPRESSORS {
            let image = bzimage(RELEASE, &payload(format, &relocatable()));
            assert!(extracted(&image) == Some(relocatable()), "{format:?}");
        }
    }

    #[test]
    fn a_damaged_payload_is_not_decompressed() {
        for (format, _) in COMPRESSORS {
            let whole = payload(format, &relocatable());
            let mut cut = whole.clone();
            cut.drain(whole.len() / 2..whole.len() - 4);
            assert!(extracted(&bzimage(RELEASE, &cut)).is_none(), "{format:?}");
            let mut wrong_size = whole;
            let at = wrong_size.len() - 4;
            wrong_size[at] ^= 1;
            assert!(extracted(&bzimage(RELEASE, &wrong_size)).is_none(), "{format:?}");
        }
    }

    #[test]
    fn a_kernel_that_qemu_cannot_start_is_not_used() {
        for plain in [vmlinux("Xen", 1), program(false), b"no ELF".to_vec()] {
            for (format, _) in COMPRESSORS {
                let image = bzimage(RELEASE, &payload(format, &plain));
                assert!(CompressedKernel::find(&image).is_some());
                assert_eq!(extracted(&image), None, "{format:?}");
            }
        }
    }

    #[test]
    fn an_image_without_a_valid_payload_is_refused() {
        let image = bzimage(RELEASE, &payload(Format::Gzip, &relocatable()));
        let changed = |at: usize, bytes: &[u8]| {
            let mut image = image.clone();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            image
        };
        assert!(CompressedKernel::find(&image).is_some());
        assert!(CompressedKernel::find(&kernel(RELEASE)).is_none());
        assert!(
            CompressedKernel::find(&bzimage(RELEASE, b"BZh9, which the guest may unpack itself")).is_none()
        );
        assert!(CompressedKernel::find(&bzimage(RELEASE, b"")).is_none());
        assert!(CompressedKernel::find(&changed(0x202, b"none")).is_none());
        assert!(CompressedKernel::find(&changed(0x206, &[0x07, 0x02])).is_none(), "a header too old to say");
        assert!(CompressedKernel::find(&changed(0x248, &[0xff; 8])).is_none(), "outside the image");
        assert!(CompressedKernel::find(&changed(0x24c, &[2, 0, 0, 0])).is_none(), "too short for its size");
        for end in [0, 0x1f2, 0x203, 0x207, 0x24a, 0x24e, 0x400, image.len() - 17] {
            assert!(CompressedKernel::find(&image[..end]).is_none(), "cut at {end:#x}");
        }
    }

    #[test]
    fn zero_setup_sectors_stand_for_four() {
        let mut image = bzimage(RELEASE, &payload(Format::Gzip, &relocatable()));
        image[0x1f1] = 0;
        image.splice(0x400..0x400, [0; 3 * 512]);
        assert!(extracted(&image) == Some(relocatable()));
    }
}
