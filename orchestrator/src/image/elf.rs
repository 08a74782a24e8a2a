//! Reads ELF files: the dependencies of a kernel module, whether a program needs a dynamic loader, and
//! whether QEMU can start a kernel.

use super::Error;
use crate::bounded;
use elf::{ElfBytes, abi, endian::AnyEndian, note::Note};
use std::path::Path;

/// The maximum size of a program for guests. A stressor has 2 MiB, and 15 MiB with debugging information.
pub(super) const MAX_PROGRAM_BYTES: usize = 256 << 20;

/// The fields of a kernel module's `.modinfo` section that are used here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ModuleInfo {
    /// The modules whose symbols this one uses, except those built into the kernel.
    pub(super) depends: Vec<String>,
    /// The kernel for which it was built: the release, then options.
    pub(super) vermagic: Option<String>,
}

/// Reads a module's `.modinfo` section.
///
/// # Errors
/// If the file is damaged or has no `.modinfo` section; the string is the message.
pub(super) fn module_info(bytes: &[u8]) -> Result<ModuleInfo, String> {
    let file =
        ElfBytes::<AnyEndian>::minimal_parse(bytes).map_err(|error| format!("not an ELF file: {error}"))?;
    let section = file
        .section_header_by_name(".modinfo")
        .map_err(|error| format!("damaged section table: {error}"))?
        .ok_or("it has no .modinfo section")?;
    let (data, _) = file.section_data(&section).map_err(|error| format!("damaged .modinfo: {error}"))?;
    let mut info = ModuleInfo::default();
    for pair in data.split(|byte| *byte == 0) {
        let pair = String::from_utf8_lossy(pair);
        match pair.split_once('=') {
            Some(("depends", names)) => {
                info.depends = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            }
            Some(("vermagic", magic)) => info.vermagic = Some(magic.to_owned()),
            _ => {}
        }
    }
    Ok(info)
}

/// Checks that a file is a static program for x86-64: a guest has no dynamic loader.
///
/// # Errors
/// If the file cannot be read, or is not a static program for x86-64; the message says which.
pub fn check_static(path: &Path) -> Result<(), Error> {
    check_static_bytes(path, &read_stressor(path)?)
}

/// Reads the stressor program for guests.
pub(super) fn read_stressor(path: &Path) -> Result<Vec<u8>, Error> {
    bounded::read_file(path, MAX_PROGRAM_BYTES)
        .map_err(|source| Error::NoStressor { path: path.to_path_buf(), source })
}

/// Does the same as [`check_static`] for a file that has already been read.
pub(super) fn check_static_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let refuse = |why| Err(Error::Stressor { path: path.to_path_buf(), why });
    let Ok(file) = ElfBytes::<AnyEndian>::minimal_parse(bytes) else {
        return refuse("it is not an ELF program");
    };
    if file.ehdr.e_machine != abi::EM_X86_64 {
        return refuse("it is not for x86-64");
    }
    let Some(segments) = file.segments() else {
        return refuse("it has no program headers");
    };
    if segments.iter().any(|segment| segment.p_type == abi::PT_INTERP) {
        return refuse("it is linked dynamically");
    }
    Ok(())
}

/// Returns whether QEMU can start this as a kernel for x86-64: whether it is an ELF file with a PVH note,
/// which has the address at which to enter the kernel (`XEN_ELFNOTE_PHYS32_ENTRY` in Xen's elfnote.h).
pub(super) fn has_pvh_entry(bytes: &[u8]) -> bool {
    const PHYS32_ENTRY: u64 = 18;
    let Ok(file) = ElfBytes::<AnyEndian>::minimal_parse(bytes) else { return false };
    let Some(segments) = file.segments() else { return false };
    let is_entry = |note: Note| match note {
        Note::Unknown(note) => note.n_type == PHYS32_ENTRY && note.name_str().is_ok_and(|name| name == "Xen"),
        _ => false,
    };
    // Like QEMU, this looks for the note in the segments of type PT_NOTE, not in sections.
    let notes = segments.iter().filter(|segment| segment.p_type == abi::PT_NOTE);
    let mut notes = notes.filter_map(|segment| file.segment_data_as_notes(&segment).ok()).flatten();
    file.ehdr.e_machine == abi::EM_X86_64 && notes.any(is_entry)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{module, program, vmlinux};
    use super::*;

    #[test]
    fn a_modules_dependencies_are_read() {
        let info = module_info(&module("x", "virtio_ring,virtio", "6.1.0 SMP")).unwrap();
        assert_eq!(info.depends, ["virtio_ring", "virtio"]);
        assert_eq!(info.vermagic.as_deref(), Some("6.1.0 SMP"));
        assert_eq!(module_info(&module("x", "", "")).unwrap().depends, Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_not_a_module_is_refused() {
        assert!(module_info(b"text").unwrap_err().contains("not an ELF file"));
        assert!(module_info(&program(false)).unwrap_err().contains(".modinfo"));
        let cut = module("x", "virtio", "6.1.0");
        assert!(module_info(&cut[..cut.len() / 2]).is_err());
    }

    #[test]
    fn only_a_static_program_can_be_init() {
        let path = Path::new("/somewhere/stressor");
        check_static_bytes(path, &program(false)).unwrap();
        let refused = |bytes: &[u8]| check_static_bytes(path, bytes).unwrap_err().to_string();
        assert!(refused(&program(true)).contains("linked dynamically"));
        assert!(refused(b"#!/bin/sh\n").contains("not an ELF program"));
        let mut foreign = program(false);
        foreign[18] = 183;
        assert!(refused(&foreign).contains("not for x86-64"));
    }

    #[test]
    fn the_pvh_note_is_found() {
        let kernel = vmlinux("Xen", 18);
        assert!(has_pvh_entry(&kernel));
        assert!(!has_pvh_entry(&vmlinux("Xen", 17)), "a Xen note of another type");
        assert!(!has_pvh_entry(&vmlinux("GNU", 18)), "a note of type 18 that is not Xen's");
        assert!(!has_pvh_entry(&program(false)), "no notes at all");
        assert!(!has_pvh_entry(b"text"));
        for end in 0..kernel.len() {
            assert!(!has_pvh_entry(&kernel[..end]), "cut at {end}");
        }
        let mut foreign = kernel;
        foreign[18] = 183;
        assert!(!has_pvh_entry(&foreign));
    }
}
