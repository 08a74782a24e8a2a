//! Selects the kernel modules that a guest loads, and their order.
//!
//! A guest needs four drivers ([`GUEST_MODULES`]) and their dependencies. The cache also keeps the link
//! modules ([`LINK_MODULES`]) of a kernel, for the guest that runs the tests of netem. Dependencies come from
//! `modules.dep` if depmod has written that file, else from the modules' own `.modinfo` sections (a package
//! that is unpacked but not installed has no `modules.dep`). Modules that are built into the kernel are left
//! out.

use super::{Error, compress, elf};
use crate::bounded::{self, FILE_BYTES};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The drivers of the guest's devices: the bus, the control port, the network card that the probe pings, and
/// the disk.
pub const GUEST_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_net", "virtio_blk"];

/// The modules that the program `netem` uses. Kernels may lack some of them.
pub const LINK_MODULES: [&str; 9] =
    ["sch_netem", "sch_tbf", "sch_htb", "sch_ingress", "act_mirred", "cls_u32", "ifb", "veth", "bridge"];

/// The maximum size of a module, also when decompressed. The largest of [`LINK_MODULES`] has 1 MiB, and with
/// debugging information several times as much.
const MAX_BYTES: usize = 64 << 20;

/// The modules to select, by name. Their dependencies are always selected too.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModuleSelection<'a> {
    /// Modules that must exist, as a file or built in.
    pub(super) required: &'a [&'a str],
    /// Modules that are selected only if they exist as a file.
    pub(super) optional: &'a [&'a str],
}

impl ModuleSelection<'static> {
    /// The modules that a guest needs to be migrated.
    pub(super) const FOR_GUESTS: Self = Self { required: &GUEST_MODULES, optional: &[] };
    /// The modules that the cache keeps with a kernel.
    pub(super) const FOR_CACHE: Self = Self { required: &GUEST_MODULES, optional: &LINK_MODULES };
}

/// A module for a guest to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// The name, with underscores instead of hyphens.
    pub(super) name: String,
    /// The ELF file, decompressed.
    pub(super) content: Vec<u8>,
}

/// The modules of one kernel: their files, their dependencies, and what is built in.
#[derive(Debug)]
pub(super) struct Modules {
    release: String,
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// The dependencies from `modules.dep`. Without that file, each module's `.modinfo` names them.
    dependencies: Option<BTreeMap<String, Vec<String>>>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads a directory like `/lib/modules/RELEASE`, or a directory that contains only module files.
    /// `config` is the text of the kernel's configuration, if it could be read.
    pub(super) fn read(release: &str, directory: &Path, config: Option<&str>) -> Result<Self, Error> {
        let mut modules = Self {
            release: release.to_owned(),
            directory: directory.to_path_buf(),
            files: BTreeMap::new(),
            dependencies: None,
            builtin: builtin_by_config(config.unwrap_or_default()),
        };
        if let Ok(list) = bounded::read_text_file(&directory.join("modules.builtin"), FILE_BYTES) {
            modules.builtin.extend(list.lines().filter_map(module_name));
        }
        match bounded::read_text_file(&directory.join("modules.dep"), FILE_BYTES) {
            Ok(list) => modules.read_dependencies(&list),
            Err(_) => collect(directory, &mut modules.files)
                .map_err(Error::io("list the kernel modules in", directory))?,
        }
        Ok(modules)
    }

    /// Describes a kernel without module files: every module is built in or missing.
    pub(super) fn none(release: &str, directory: &Path, config: Option<&str>) -> Self {
        Self {
            release: release.to_owned(),
            directory: directory.to_path_buf(),
            files: BTreeMap::new(),
            dependencies: None,
            builtin: builtin_by_config(config.unwrap_or_default()),
        }
    }

    fn read_dependencies(&mut self, list: &str) {
        let mut dependencies = BTreeMap::new();
        for (file, needs) in list.lines().filter_map(|line| line.split_once(':')) {
            let Some(name) = module_name(file) else { continue };
            dependencies.insert(name.clone(), needs.split_whitespace().filter_map(module_name).collect());
            self.files.insert(name, self.directory.join(file));
        }
        self.dependencies = Some(dependencies);
    }

    /// Reads the selected modules and their dependencies. Returns each module after the modules on which it
    /// depends.
    ///
    /// # Errors
    /// If a required module or a dependency is missing, damaged or belongs to another kernel.
    pub(super) fn select(&self, wanted: &ModuleSelection<'_>) -> Result<Vec<Module>, Error> {
        let mut selected = Vec::new();
        let mut visited = BTreeSet::new();
        let present = wanted.optional.iter().filter(|name| self.files.contains_key(**name));
        for name in wanted.required.iter().chain(present) {
            self.visit(name, None, &mut visited, &mut selected)?;
        }
        Ok(selected)
    }

    /// Appends a module to `selected`, after its dependencies (a depth-first search).
    fn visit(
        &self,
        name: &str,
        needed_by: Option<&str>,
        visited: &mut BTreeSet<String>,
        selected: &mut Vec<Module>,
    ) -> Result<(), Error> {
        if self.builtin.contains(name) || !visited.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.files.get(name).ok_or_else(|| Error::MissingModule {
            release: self.release.clone(),
            module: name.to_owned(),
            needed_by: needed_by.map(str::to_owned),
            directory: self.directory.clone(),
        })?;
        let refuse = |why| Error::BadModule { path: path.clone(), why };
        let packed = bounded::read_file(path, MAX_BYTES)
            .map_err(Error::io("read the kernel module", path.as_path()))?;
        let content = compress::decompress(packed, MAX_BYTES)
            .map_err(|error| refuse(format!("it cannot be decompressed: {error}")))?;
        let info = elf::module_info(&content).map_err(refuse)?;
        if let Some(magic) = &info.vermagic
            && magic.split_whitespace().next() != Some(&self.release)
        {
            return Err(refuse(format!("it is for {magic}, but the kernel is {}", self.release)));
        }
        let listed = self.dependencies.as_ref().and_then(|all| all.get(name));
        for dependency in listed.unwrap_or(&info.depends) {
            self.visit(&normalized(dependency), Some(name), visited, selected)?;
        }
        selected.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// Returns the modules of [`GUEST_MODULES`] that are built in according to a kernel configuration.
fn builtin_by_config(config: &str) -> BTreeSet<String> {
    let built_in = |name: &&str| {
        let line = format!("CONFIG_{}=y", name.to_uppercase());
        config.lines().any(|candidate| candidate == line)
    };
    GUEST_MODULES.iter().filter(|name| built_in(name)).map(|name| (*name).to_owned()).collect()
}

/// Collects all module files below a directory, by name. If two files have the same name, the first in the
/// order of their paths is kept.
fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Symbolic links are not followed: `build` and `source` point outside the directory.
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            files.entry(name).or_insert_with(|| entry.path());
        }
    }
    Ok(())
}

/// Returns the name of the module in this file, or `None` if the file is not a module.
fn module_name(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| normalized(name))
}

/// Replaces hyphens with underscores: module names are written with either.
fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{MODULES, RELEASE, Tree, gzip, module, xz, zstd};
    use super::*;

    type Compress = fn(&[u8]) -> Vec<u8>;

    fn select(tree: &Tree) -> Result<Vec<String>, Error> {
        let selected = Modules::read(RELEASE, &tree.modules(), None)?.select(&ModuleSelection::FOR_GUESTS)?;
        Ok(selected.into_iter().map(|module| module.name).collect())
    }

    /// Asserts that every module comes after its dependencies, which the fixture's table lists.
    fn assert_ordered(order: &[String]) {
        for (at, name) in order.iter().enumerate() {
            let (_, _, depends) = MODULES.iter().find(|(_, module, _)| module == name).unwrap();
            for dependency in depends.split(',').filter(|dependency| !dependency.is_empty()) {
                assert!(order[..at].iter().any(|before| before == dependency), "{name} in {order:?}");
            }
        }
    }

    #[test]
    fn without_modules_dep_dependencies_come_from_the_modules() {
        let dir = tempfile::tempdir().unwrap();
        let order = select(&Tree::new(dir.path())).unwrap();
        assert_ordered(&order);
        assert_eq!(order.len(), 10, "everything but virtio_balloon: {order:?}");
        assert_eq!(order[0], "virtio_ring");
        assert!(!order.iter().any(|name| name == "virtio_balloon"));
    }

    #[test]
    fn modules_dep_takes_precedence_over_the_modules() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let at = |name: &str| {
            let (folder, ..) = MODULES.iter().find(|(_, module, _)| *module == name).unwrap();
            format!("kernel/{folder}/{name}.ko")
        };
        // The file lists a dependency that the modules do not list: the file takes precedence.
        let list = format!(
            "{}: {} {}\n{}:\n{}: {}\n{}:\n{}:\n{}:\n{}: {}\n",
            at("virtio_pci"),
            at("virtio"),
            at("virtio_ring"),
            at("virtio_ring"),
            at("virtio"),
            at("virtio_ring"),
            at("virtio_console"),
            at("virtio_blk"),
            at("virtio_balloon"),
            at("virtio_net"),
            at("virtio_balloon"),
        );
        fs::write(tree.modules().join("modules.dep"), list).unwrap();
        let order = select(&tree).unwrap();
        assert_eq!(
            order,
            [
                "virtio_ring",
                "virtio",
                "virtio_pci",
                "virtio_console",
                "virtio_balloon",
                "virtio_net",
                "virtio_blk"
            ]
        );
    }

    #[test]
    fn compressed_modules_are_decompressed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let formats: [(&str, Compress); 3] = [("xz", xz), ("zst", zstd), ("gz", gzip)];
        for (at, (folder, name, depends)) in MODULES.iter().enumerate() {
            let (suffix, compress) = formats[at % 3];
            let plain = module(name, depends, RELEASE);
            tree.remove(folder, &format!("{name}.ko"));
            tree.put(folder, &format!("{name}.ko.{suffix}"), &compress(&plain));
        }
        let selected = Modules::read(RELEASE, &tree.modules(), None)
            .unwrap()
            .select(&ModuleSelection::FOR_GUESTS)
            .unwrap();
        assert_eq!(selected.len(), 10);
        for Module { name, content } in selected {
            let (_, _, depends) = MODULES.iter().find(|(_, module, _)| *module == name).unwrap();
            assert_eq!(content, module(&name, depends, RELEASE));
        }
    }

    #[test]
    fn built_in_modules_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        fs::write(
            tree.modules().join("modules.builtin"),
            "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio-pci.ko\n\
             kernel/drivers/block/virtio_blk.ko\n",
        )
        .unwrap();
        tree.remove("drivers/virtio", "virtio.ko");
        tree.remove("drivers/virtio", "virtio_pci.ko");
        tree.remove("drivers/block", "virtio_blk.ko");
        let order = select(&tree).unwrap();
        assert_eq!(order, ["virtio_ring", "virtio_console", "failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn the_configuration_of_a_kernel_without_modules_is_used() {
        let config =
            "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_BLK=y\n";
        let modules = Modules::none(RELEASE, Path::new("/nowhere"), Some(config));
        assert_eq!(modules.select(&ModuleSelection::FOR_GUESTS).unwrap(), []);
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_CONSOLE=y\n";
        let error = Modules::none(RELEASE, Path::new("/nowhere"), Some(config))
            .select(&ModuleSelection::FOR_GUESTS)
            .unwrap_err();
        assert!(error.to_string().contains("no module virtio_net"), "{error}");
    }

    #[test]
    fn every_driver_of_a_guest_is_a_file_or_built_in() {
        for (folder, name, _) in MODULES.iter().filter(|(_, name, _)| GUEST_MODULES.contains(name)) {
            let dir = tempfile::tempdir().unwrap();
            let tree = Tree::new(dir.path());
            tree.remove(folder, &format!("{name}.ko"));
            let error = select(&tree).unwrap_err().to_string();
            assert!(error.contains(&format!("kernel {RELEASE} has no module {name}: ")), "{error}");
            let built_in = format!("CONFIG_{}=y\n", name.to_uppercase());
            let modules = Modules::read(RELEASE, &tree.modules(), Some(&built_in)).unwrap();
            let selected = modules.select(&ModuleSelection::FOR_GUESTS).unwrap();
            assert!(selected.iter().all(|module| module.name != *name));
        }
    }

    #[test]
    fn the_error_for_a_missing_dependency_names_the_module_that_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.remove("net/core", "failover.ko");
        let error = select(&tree).unwrap_err().to_string();
        assert!(error.contains("no module failover (needed by net_failover)"), "{error}");
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        tree.put("drivers/virtio", "virtio_ring.ko", &module("virtio_ring", "", "6.9.9 SMP"));
        let error = select(&tree).unwrap_err().to_string();
        assert!(error.contains("virtio_ring.ko: it is for 6.9.9 SMP, but the kernel is 6.1.0"), "{error}");
    }
}
