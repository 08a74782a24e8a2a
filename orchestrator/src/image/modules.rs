//! Which kernel modules the guest loads, and in which order.
//!
//! The guest needs three drivers ([`NEEDED`]); everything else is what those depend on. A kernel in the cache
//! keeps those for links ([`LINKS`]) besides, for guests with another purpose than a migration. Dependencies
//! come from `modules.dep` where depmod has made one, else from what the modules say of themselves (a package
//! unpacked and not installed has no `modules.dep`). What is built into the kernel is left out.

use super::{Error, compress, elf};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The drivers of the guest's devices: the bus, the stressor's port, the network that is probed.
pub const NEEDED: [&str; 3] = ["virtio_pci", "virtio_console", "virtio_net"];

/// What the program `netem` uses of a kernel. Kernels may lack some.
pub const LINKS: [&str; 9] =
    ["sch_netem", "sch_tbf", "sch_htb", "sch_ingress", "act_mirred", "cls_u32", "ifb", "veth", "bridge"];

/// Which modules are selected, with all that they depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// These must be there, as a file or built in.
    pub(super) required: &'a [&'a str],
    /// These are taken where there is a file.
    pub(super) optional: &'a [&'a str],
}

impl Wanted<'static> {
    /// What a guest that is migrated needs.
    pub(super) const BY_GUESTS: Self = Self { required: &NEEDED, optional: &[] };
    /// What is kept of a kernel.
    pub(super) const FOR_THE_CACHE: Self = Self { required: &NEEDED, optional: &LINKS };
}

/// A module to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub(super) name: String,
    /// The module itself, not compressed.
    pub(super) content: Vec<u8>,
}

/// What is known of one kernel's modules.
#[derive(Debug)]
pub(super) struct Modules {
    release: String,
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    /// From `modules.dep`; without one, modules are asked themselves.
    dependencies: Option<BTreeMap<String, Vec<String>>>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads what a directory like `/lib/modules/RELEASE` holds, or one that holds just module files.
    /// `config` is the kernel's configuration, where there is one to be read.
    pub(super) fn read(release: &str, directory: &Path, config: Option<&str>) -> Result<Self, Error> {
        let mut modules = Self {
            release: release.to_owned(),
            directory: directory.to_path_buf(),
            files: BTreeMap::new(),
            dependencies: None,
            builtin: builtin_by_config(config.unwrap_or_default()),
        };
        if let Ok(list) = fs::read_to_string(directory.join("modules.builtin")) {
            modules.builtin.extend(list.lines().filter_map(module_name));
        }
        match fs::read_to_string(directory.join("modules.dep")) {
            Ok(list) => modules.read_dependencies(&list),
            Err(_) => collect(directory, &mut modules.files)
                .map_err(Error::io("list the kernel modules in", directory))?,
        }
        Ok(modules)
    }

    /// Of a kernel that has no module files: what it needs is built in, or missing.
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

    /// The modules that are wanted, each after those it depends on.
    pub(super) fn select(&self, wanted: &Wanted<'_>) -> Result<Vec<Module>, Error> {
        let mut selected = Vec::new();
        let mut visited = BTreeSet::new();
        let present = wanted.optional.iter().filter(|name| self.files.contains_key(**name));
        for name in wanted.required.iter().chain(present) {
            self.visit(name, None, &mut visited, &mut selected)?;
        }
        Ok(selected)
    }

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
        let packed = fs::read(path).map_err(Error::io("read the kernel module", path.as_path()))?;
        let content = compress::decompress(packed)
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

/// Of [`NEEDED`], those a kernel configuration says are built in.
fn builtin_by_config(config: &str) -> BTreeSet<String> {
    let built_in = |name: &&str| {
        let line = format!("CONFIG_{}=y", name.to_uppercase());
        config.lines().any(|candidate| candidate == line)
    };
    NEEDED.iter().filter(|name| built_in(name)).map(|name| (*name).to_owned()).collect()
}

/// All module files below a directory, by name; of two with one name, the first in order of paths.
fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Not following links: `build` and `source` lead out of the modules.
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            files.entry(name).or_insert_with(|| entry.path());
        }
    }
    Ok(())
}

/// The name of the module that a path stands for, if it stands for one.
fn module_name(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| normalized(name))
}

/// Module names are written with hyphens and underscores alike.
fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{MODULES, RELEASE, Tree, gzip, module, xz, zstd};
    use super::*;

    type Pack = fn(&[u8]) -> Vec<u8>;

    fn select(tree: &Tree) -> Result<Vec<String>, Error> {
        let selected = Modules::read(RELEASE, &tree.modules(), None)?.select(&Wanted::BY_GUESTS)?;
        Ok(selected.into_iter().map(|module| module.name).collect())
    }

    /// Every module after all that it depends on, by the fixture's own table.
    fn assert_ordered(order: &[String]) {
        for (at, name) in order.iter().enumerate() {
            let (_, _, depends) = MODULES.iter().find(|(_, module, _)| module == name).unwrap();
            for dependency in depends.split(',').filter(|dependency| !dependency.is_empty()) {
                assert!(order[..at].iter().any(|before| before == dependency), "{name} in {order:?}");
            }
        }
    }

    #[test]
    fn modules_say_what_they_depend_on() {
        let dir = tempfile::tempdir().unwrap();
        let order = select(&Tree::new(dir.path())).unwrap();
        assert_ordered(&order);
        assert_eq!(order.len(), 9, "everything but virtio_blk: {order:?}");
        assert_eq!(order[0], "virtio_ring");
        assert!(!order.iter().any(|name| name == "virtio_blk"));
    }

    #[test]
    fn modules_dep_is_followed_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let at = |name: &str| {
            let (folder, ..) = MODULES.iter().find(|(_, module, _)| *module == name).unwrap();
            format!("kernel/{folder}/{name}.ko")
        };
        // The file says more than the modules do: it is the file that counts.
        let list = format!(
            "{}: {} {}\n{}:\n{}: {}\n{}:\n{}:\n{}: {}\n",
            at("virtio_pci"),
            at("virtio"),
            at("virtio_ring"),
            at("virtio_ring"),
            at("virtio"),
            at("virtio_ring"),
            at("virtio_console"),
            at("virtio_blk"),
            at("virtio_net"),
            at("virtio_blk"),
        );
        fs::write(tree.modules().join("modules.dep"), list).unwrap();
        let order = select(&tree).unwrap();
        assert_eq!(
            order,
            ["virtio_ring", "virtio", "virtio_pci", "virtio_console", "virtio_blk", "virtio_net"]
        );
    }

    #[test]
    fn compressed_modules_come_out_plain() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let packs: [(&str, Pack); 3] = [("xz", xz), ("zst", zstd), ("gz", gzip)];
        for (at, (folder, name, depends)) in MODULES.iter().enumerate() {
            let (suffix, pack) = packs[at % 3];
            let plain = module(name, depends, RELEASE);
            tree.remove(folder, &format!("{name}.ko"));
            tree.put(folder, &format!("{name}.ko.{suffix}"), &pack(&plain));
        }
        let selected =
            Modules::read(RELEASE, &tree.modules(), None).unwrap().select(&Wanted::BY_GUESTS).unwrap();
        assert_eq!(selected.len(), 9);
        for Module { name, content } in selected {
            let (_, _, depends) = MODULES.iter().find(|(_, module, _)| *module == name).unwrap();
            assert_eq!(content, module(&name, depends, RELEASE));
        }
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        fs::write(
            tree.modules().join("modules.builtin"),
            "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio-pci.ko\n",
        )
        .unwrap();
        tree.remove("drivers/virtio", "virtio.ko");
        tree.remove("drivers/virtio", "virtio_pci.ko");
        let order = select(&tree).unwrap();
        assert_eq!(order, ["virtio_ring", "virtio_console", "failover", "net_failover", "virtio_net"]);
    }

    #[test]
    fn a_configuration_tells_of_a_kernel_without_modules() {
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\n";
        let modules = Modules::none(RELEASE, Path::new("/nowhere"), Some(config));
        assert_eq!(modules.select(&Wanted::BY_GUESTS).unwrap(), []);
        let config = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\nCONFIG_VIRTIO_CONSOLE=y\n";
        let error = Modules::none(RELEASE, Path::new("/nowhere"), Some(config))
            .select(&Wanted::BY_GUESTS)
            .unwrap_err();
        assert!(error.to_string().contains("no module virtio_net"), "{error}");
    }

    #[test]
    fn a_missing_dependency_is_named_with_what_needs_it() {
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
