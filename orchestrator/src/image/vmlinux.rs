//! The kernel inside a kernel image, so that guests need not decompress it.
//!
//! What distributions ship, a bzImage, is a small program with the kernel proper (vmlinux) compressed inside,
//! which the program decompresses at each boot. Where the guest's CPU is emulated that takes long: of 2.53 s
//! from QEMU's start to the stressor's first line, with Debian's cloud kernel under TCG, 0.4 s. Decompressed
//! here instead, once, and given to QEMU as the ELF file it is, the same guest took 2.12 s.
//!
//! QEMU starts an ELF file where a note in it says (PVH), which kernels have that are built with
//! `CONFIG_PVH`. An image whose kernel has no such note, or that cannot be decompressed here, is booted as it
//! is.

use super::{compress::Format, elf};

/// Changes whenever the same image may give something else.
pub(super) const FORMAT: &str = "testbed-vmlinux-1";

/// How a guest's kernel is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// It decompresses itself, as it does on a machine.
    Compressed,
    /// It was decompressed before and is entered directly (PVH), which saves the guest that time.
    Uncompressed,
}

/// The compressed part of a kernel image.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    format: Format,
    stream: &'a [u8],
    /// Of what it decompresses to.
    size: usize,
}

impl<'a> Payload<'a> {
    /// The payload of a bzImage, if it is in a format known here. Takes no time: decompresses nothing.
    ///
    /// The header is that of Linux's Documentation/arch/x86/boot.rst.
    pub(super) fn of(image: &'a [u8]) -> Option<Self> {
        /// The first version of the header that says where the payload is.
        const SAYS_PAYLOAD: u16 = 0x208;
        const SECTOR: usize = 512;
        let word = |at: usize| -> Option<usize> {
            let (bytes, _) = image.get(at..)?.split_first_chunk()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        };
        let (version, _) = image.get(0x206..)?.split_first_chunk()?;
        if image.get(0x202..0x206)? != b"HdrS" || u16::from_le_bytes(*version) < SAYS_PAYLOAD {
            return None;
        }
        let setup_sectors = match image.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(*sectors),
        };
        let start = ((setup_sectors + 1) * SECTOR).checked_add(word(0x248)?)?;
        let payload = image.get(start..start.checked_add(word(0x24c)?)?)?;
        let format = Format::of(payload)?;
        // The kernel's build appends the size to what the compressor wrote, but not to gzip's: that ends with
        // it already.
        let (stream, size) = payload.split_last_chunk()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        Some(Self { format, stream: if format == Format::Gzip { payload } else { stream }, size })
    }

    /// The kernel, decompressed, if that gives one that QEMU can start.
    pub(super) fn kernel(&self) -> Option<Vec<u8>> {
        let kernel = self.format.decompress(self.stream).ok()?;
        (kernel.len() == self.size && elf::has_pvh_entry(&kernel)).then_some(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{PACKERS, RELEASE, bzimage, kernel, payload, program, vmlinux};
    use super::*;

    /// A kernel and what the build appends to it: the addresses to relocate.
    fn relocatable() -> Vec<u8> {
        let mut plain = vmlinux("Xen", 18);
        plain.extend((0..200_000_u32).flat_map(|n| (n / 5).to_le_bytes()));
        plain
    }

    fn extracted(image: &[u8]) -> Option<Vec<u8>> {
        Payload::of(image).and_then(|payload| payload.kernel())
    }

    #[test]
    fn a_kernel_comes_out_of_each_format() {
        for (format, _) in PACKERS {
            let image = bzimage(RELEASE, &payload(format, &relocatable()));
            assert!(extracted(&image) == Some(relocatable()), "{format:?}");
        }
    }

    #[test]
    fn a_damaged_payload_gives_none() {
        for (format, _) in PACKERS {
            let whole = payload(format, &relocatable());
            let mut cut = whole.clone();
            cut.drain(whole.len() / 2..whole.len() - 4);
            assert!(extracted(&bzimage(RELEASE, &cut)).is_none(), "{format:?}");
            let mut of_another_size = whole;
            let at = of_another_size.len() - 4;
            of_another_size[at] ^= 1;
            assert!(extracted(&bzimage(RELEASE, &of_another_size)).is_none(), "{format:?}");
        }
    }

    #[test]
    fn what_qemu_cannot_start_gives_none() {
        for plain in [vmlinux("Xen", 1), program(false), b"no ELF".to_vec()] {
            for (format, _) in PACKERS {
                let image = bzimage(RELEASE, &payload(format, &plain));
                assert!(Payload::of(&image).is_some());
                assert_eq!(extracted(&image), None, "{format:?}");
            }
        }
    }

    #[test]
    fn an_image_that_names_no_known_payload_has_none() {
        let image = bzimage(RELEASE, &payload(Format::Gzip, &relocatable()));
        let changed = |at: usize, bytes: &[u8]| {
            let mut image = image.clone();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            image
        };
        assert!(Payload::of(&image).is_some());
        assert!(Payload::of(&kernel(RELEASE)).is_none());
        assert!(Payload::of(&bzimage(RELEASE, b"BZh9, which the guest may unpack itself")).is_none());
        assert!(Payload::of(&bzimage(RELEASE, b"")).is_none());
        assert!(Payload::of(&changed(0x202, b"none")).is_none());
        assert!(Payload::of(&changed(0x206, &[0x07, 0x02])).is_none(), "a header too old to say");
        assert!(Payload::of(&changed(0x248, &[0xff; 8])).is_none(), "outside the image");
        assert!(Payload::of(&changed(0x24c, &[2, 0, 0, 0])).is_none(), "too short for its size");
        for end in [0, 0x1f2, 0x203, 0x207, 0x24a, 0x24e, 0x400, image.len() - 17] {
            assert!(Payload::of(&image[..end]).is_none(), "cut at {end:#x}");
        }
    }

    #[test]
    fn no_setup_sectors_are_four() {
        let mut image = bzimage(RELEASE, &payload(Format::Gzip, &relocatable()));
        image[0x1f1] = 0;
        image.splice(0x400..0x400, [0; 3 * 512]);
        assert!(extracted(&image) == Some(relocatable()));
    }
}
