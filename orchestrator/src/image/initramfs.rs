//! The guest's file system: a cpio archive (format newc) that the kernel unpacks at boot.
//!
//! It contains `/init` (the stressor or another program), the modules for `/init` to load, with their order
//! in `/modules/order`, the directories on which `/init` mounts file systems, the console that the kernel
//! opens for `/init`, other programs in `/programs`, and nothing else. The same inputs give the same bytes.

use super::modules::Module;
use cpio::newc::{Builder, trailer};
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// Builds the archive. `programs` has the names and contents of the files in `/programs`.
pub(super) fn build(init: &[u8], modules: &[Module], programs: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let contents = modules.iter().map(|module| module.content.len());
    let contents = contents.chain(programs.iter().map(|(_, content)| content.len()));
    let size = init.len() + contents.map(|length| length + 256).sum::<usize>() + 4096;
    let mut archive = Archive { bytes: Vec::with_capacity(size), entries: 0 };
    for directory in ["dev", "proc", "sys", "modules"] {
        archive.add(directory, DIRECTORY, &[])?;
    }
    archive.add("dev/console", CONSOLE, &[])?;
    archive.add("init", PROGRAM, init)?;
    let mut order = String::new();
    for module in modules {
        let file = format!("{}.ko", module.name);
        archive.add(&format!("modules/{file}"), FILE, &module.content)?;
        order.push_str(&file);
        order.push('\n');
    }
    archive.add("modules/order", FILE, order.as_bytes())?;
    if !programs.is_empty() {
        archive.add("programs", DIRECTORY, &[])?;
    }
    for (name, content) in programs {
        archive.add(&format!("programs/{name}"), PROGRAM, content)?;
    }
    trailer(archive.bytes)
}

struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let mut entry = Builder::new(name).ino(self.entries).mode(mode);
        if mode == DIRECTORY {
            entry = entry.nlink(2);
        }
        if mode == CONSOLE {
            entry = entry.rdev_major(5).rdev_minor(1);
        }
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{name} is too large for the archive")))?;
        let mut writer = entry.write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    fn module(name: &str, content: &[u8]) -> Module {
        Module { name: name.to_owned(), content: content.to_vec() }
    }

    /// Name, mode, device, content.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Reads all entries with the `cpio` crate's reader.
    fn entries(archive: &[u8]) -> Vec<Entry> {
        let mut rest = archive;
        let mut found = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                assert!(reader.finish().unwrap().is_empty(), "nothing follows the trailer");
                return found;
            }
            let (name, mode) = (entry.name().to_owned(), entry.mode());
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0), "{name}");
            let device = (entry.rdev_major(), entry.rdev_minor());
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            found.push((name, mode, device, content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_archive_contains_what_the_guest_needs_and_nothing_else() {
        let modules = [module("virtio_ring", b"ring"), module("virtio", b"virtio!")];
        let archive = build(b"the stressor", &modules, &[("netem", b"a program")]).unwrap();
        let entry =
            |name: &str, mode, device, content: &[u8]| (name.to_owned(), mode, device, content.to_vec());
        let none = (0, 0);
        assert_eq!(
            entries(&archive),
            [
                entry("dev", 0o040_755, none, b""),
                entry("proc", 0o040_755, none, b""),
                entry("sys", 0o040_755, none, b""),
                entry("modules", 0o040_755, none, b""),
                entry("dev/console", 0o020_600, (5, 1), b""),
                entry("init", 0o100_755, none, b"the stressor"),
                entry("modules/virtio_ring.ko", 0o100_644, none, b"ring"),
                entry("modules/virtio.ko", 0o100_644, none, b"virtio!"),
                entry("modules/order", 0o100_644, none, b"virtio_ring.ko\nvirtio.ko\n"),
                entry("programs", 0o040_755, none, b""),
                entry("programs/netem", 0o100_755, none, b"a program"),
            ]
        );
    }

    #[test]
    fn the_first_bytes_are_a_newc_header() {
        let archive = build(b"", &[], &[]).unwrap();
        let expected = concat!(
            "070701",   // magic
            "00000001", // inode
            "000041ed", // mode
            "00000000", // owner
            "00000000", // group
            "00000002", // links
            "00000000", // time
            "00000000", // size
            "00000000", // device
            "00000000",
            "00000000",
            "00000000",
            "00000004", // length of the name
            "00000000", // checksum
            "dev\0\0\0",
            "070701",
        );
        assert_eq!(std::str::from_utf8(&archive[..expected.len()]).unwrap(), expected);
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let modules = [module("virtio", b"v")];
        assert_eq!(build(b"init", &modules, &[]).unwrap(), build(b"init", &modules, &[]).unwrap());
    }
}
