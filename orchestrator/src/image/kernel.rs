//! Finds the guest's kernel and reads it with its modules.
//!
//! Unless the user chooses a kernel, the kernel in the cache comes first (`testbed setup` puts it there: the
//! distribution's package, or a file that the user names), then the kernel that this host runs. This module
//! does not download anything.

use super::{
    Cache, Error,
    modules::{Module, ModuleSelection, Modules},
};
use crate::bounded::{self, FILE_BYTES};
use std::{
    convert::Infallible,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The cache entry that is a symbolic link to the kernel in use.
pub(super) const CURRENT: &str = "kernels/current";

/// The maximum size of a kernel image. Those of distributions have up to 15 MiB; one that contains an
/// initramfs or every driver has several times as much.
const MAX_BYTES: usize = 256 << 20;

/// The kernel that the user chose for guests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The kernel in the cache, else the kernel that this host runs.
    #[default]
    Auto,
    /// The kernel in the cache; no other is tried.
    Cached,
    /// The kernel that this host runs.
    Host,
    /// A kernel image that the user names.
    Given {
        /// The kernel: a bzImage, which distributions name `vmlinuz`.
        image: PathBuf,
        /// The directory of its modules, like `/lib/modules/RELEASE`. `None` searches beside the image and in
        /// `/lib/modules`.
        modules: Option<PathBuf>,
    },
}

impl KernelChoice {
    /// Combines `--kernel` and `--modules`. The directory of modules is used only if `--kernel` is a path:
    /// the other choices come with their own modules.
    pub fn from_options(kernel: Option<&str>, modules: Option<&Path>) -> Self {
        let Ok(choice) = kernel.unwrap_or("auto").parse();
        match choice {
            Self::Given { image, .. } => Self::Given { image, modules: modules.map(Path::to_path_buf) },
            choice => choice,
        }
    }
}

impl FromStr for KernelChoice {
    type Err = Infallible;

    /// Parses `auto`, `cached`, `host`, or a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "cached" => Self::Cached,
            "host" => Self::Host,
            path => Self::Given { image: path.into(), modules: None },
        })
    }
}

/// The origin of a guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSource {
    /// A file that the user named.
    Given,
    /// The cache, which `testbed setup` fills.
    Cached,
    /// The kernel that this host runs.
    Host,
}

impl fmt::Display for KernelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "given",
            Self::Cached => "cached",
            Self::Host => "this host's",
        })
    }
}

/// A kernel image with its selected modules, read into memory.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) content: Vec<u8>,
    pub(super) release: String,
    pub(super) source: KernelSource,
    /// The selected modules in load order.
    pub(super) modules: Vec<Module>,
    /// The kernel's configuration, which says what is built in; copied into the cache with the kernel.
    pub(super) config: Option<String>,
    /// The text of `modules.builtin`, copied into the cache with the kernel.
    pub(super) builtin: Option<String>,
}

/// The kernel that this host runs.
#[derive(Debug, Clone)]
pub(super) struct HostKernel {
    /// The root of the host's file system: `/`, except in tests.
    pub(super) root: PathBuf,
    pub(super) release: String,
}

impl HostKernel {
    pub(super) fn running() -> Result<Self, Error> {
        let path = Path::new("/proc/sys/kernel/osrelease");
        let release = fs::read_to_string(path).map_err(Error::io("read", path))?;
        Ok(Self { root: PathBuf::from("/"), release: release.trim().to_owned() })
    }

    fn find(&self, wanted: &ModuleSelection<'_>) -> Result<Kernel, Error> {
        let modules = self.root.join("lib/modules").join(&self.release);
        let image = self.root.join("boot").join(format!("vmlinuz-{}", self.release));
        let beside_modules = modules.join("vmlinuz");
        let image = if !image.exists() && beside_modules.exists() { beside_modules } else { image };
        read(&image, Some(&modules), KernelSource::Host, wanted)
    }
}

/// Finds the chosen kernel and reads it with its selected modules.
pub(super) fn find(
    choice: &KernelChoice,
    wanted: &ModuleSelection<'_>,
    cache: &Cache,
    host: &HostKernel,
) -> Result<Kernel, Error> {
    match choice {
        KernelChoice::Given { image, modules } => {
            read(image, modules.as_deref(), KernelSource::Given, wanted)
        }
        KernelChoice::Host => host.find(wanted),
        KernelChoice::Cached => cached(cache, wanted)
            .unwrap_or_else(|| Err(Error::NoKernel { tried: vec!["none in the cache".to_owned()] })),
        KernelChoice::Auto => {
            let mut tried = Vec::new();
            match cached(cache, wanted) {
                Some(Ok(kernel)) => return Ok(kernel),
                Some(Err(error)) => tried.push(format!("the kernel in the cache is unusable ({error})")),
                None => tried.push("none in the cache".to_owned()),
            }
            host.find(wanted).map_err(|error| {
                tried.push(format!("this host's own kernel is unusable ({error})"));
                Error::NoKernel { tried }
            })
        }
    }
}

/// Reads the kernel in the cache. Returns `None` if the cache has none.
fn cached(cache: &Cache, wanted: &ModuleSelection<'_>) -> Option<Result<Kernel, Error>> {
    // The link is resolved once. Otherwise a `testbed setup` that replaces the kernel in the meantime could
    // lead to the image of one kernel and the modules of another.
    let link = cache.path(CURRENT);
    let directory = match link.canonicalize() {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(Error::io("find the kernel at", link.as_path())(error))),
    };
    Some(read(&directory.join("vmlinuz"), Some(&directory.join("modules")), KernelSource::Cached, wanted))
}

fn read(
    image: &Path,
    given: Option<&Path>,
    source: KernelSource,
    wanted: &ModuleSelection<'_>,
) -> Result<Kernel, Error> {
    let refuse = |why| Error::NotAKernel { path: image.to_path_buf(), why };
    let content = bounded::read_file(image, MAX_BYTES).map_err(|error| match error.kind() {
        // It is readable, but no regular file, or larger than kernels are.
        io::ErrorKind::Other | io::ErrorKind::FileTooLarge => refuse(error.to_string()),
        _ => Error::io("read the kernel", image)(error),
    })?;
    let release = release_of(&content).map_err(|why| refuse(why.into()))?.to_owned();
    let beside = image.parent().unwrap_or(Path::new("."));
    let config = [beside.join("config"), beside.join(format!("config-{release}"))]
        .iter()
        .find_map(|path| bounded::read_text_file(path, FILE_BYTES).ok());

    let places: Vec<PathBuf> = match given {
        Some(given) => {
            // Since Debian 13, where /lib is a link to /usr/lib, packages contain the modules below `usr`.
            let below = ["", "lib/modules", "usr/lib/modules"].map(|below| given.join(below).join(&release));
            [given.to_path_buf()].into_iter().chain(below).collect()
        }
        None => vec![
            beside.join("modules"),
            beside.join("../lib/modules").join(&release),
            beside.join("../usr/lib/modules").join(&release),
            Path::new("/lib/modules").join(&release),
        ],
    };
    let directory = places.iter().find(|place| holds_modules(place));
    if let (Some(given), None) = (given, directory)
        && let Err(error) = fs::read_dir(given)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(Error::io("read the directory of modules", given)(error));
    }
    let modules = match directory {
        Some(directory) => Modules::read(&release, directory, config.as_deref())?,
        None => Modules::none(&release, &places[0], config.as_deref()),
    };
    let modules = modules.select(wanted).map_err(|error| match error {
        // No directory was found, so all modules are missing and not just this one.
        Error::MissingModule { .. } if directory.is_none() => {
            Error::NoModules { release: release.clone(), looked: places.clone() }
        }
        error => error,
    })?;
    let builtin =
        directory.and_then(|place| bounded::read_text_file(&place.join("modules.builtin"), FILE_BYTES).ok());
    Ok(Kernel { image: image.to_path_buf(), content, release, source, modules, config, builtin })
}

/// Returns whether this is a directory of modules and not one of its parents.
fn holds_modules(directory: &Path) -> bool {
    let is_part_of_modules = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name == "kernel" || name.starts_with("modules.") || name.contains(".ko")
    };
    fs::read_dir(directory)
        .is_ok_and(|entries| entries.flatten().any(|entry| is_part_of_modules(&entry.file_name())))
}

/// Reads the release from the boot header of a kernel image (Linux's Documentation/arch/x86/boot.rst).
fn release_of(image: &[u8]) -> Result<&str, &'static str> {
    const MAGIC: usize = 0x202;
    const VERSION: usize = 0x20e;
    const SETUP: usize = 0x200;
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Err("it has no boot header");
    }
    let offset = image.get(VERSION..VERSION + 2).map(|two| u16::from_le_bytes([two[0], two[1]]));
    let text = offset
        .filter(|offset| *offset != 0)
        .and_then(|offset| image.get(SETUP + usize::from(offset)..))
        .ok_or("its boot header names no version")?;
    // The version string begins with the release: `6.1.0-56-cloud-amd64 (builder@host) #1 SMP ...`.
    let end = text.iter().take(256).position(|byte| byte.is_ascii_whitespace() || *byte == 0);
    end.and_then(|end| std::str::from_utf8(&text[..end]).ok())
        .filter(|release| !release.is_empty())
        .ok_or("its boot header names no version")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{RELEASE, Tree, kernel};
    use super::*;

    fn host(root: &Path) -> HostKernel {
        HostKernel { root: root.to_path_buf(), release: RELEASE.to_owned() }
    }

    #[test]
    fn a_kernels_release_is_read_from_its_image() {
        assert_eq!(release_of(&kernel("6.1.0-56-cloud-amd64")), Ok("6.1.0-56-cloud-amd64"));
        assert_eq!(release_of(b"\x7fELF"), Err("it has no boot header"));
        let mut nameless = kernel("6.1");
        nameless[0x20e] = 0;
        nameless[0x20f] = 0;
        assert_eq!(release_of(&nameless), Err("its boot header names no version"));
        let mut cut = kernel("6.1");
        cut.truncate(0x300);
        assert_eq!(release_of(&cut), Err("its boot header names no version"));
    }

    #[test]
    fn modules_are_found_in_the_directory_itself_or_below_a_parent() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let cache = Cache::at(dir.path().join("cache"));
        for modules in [
            Some(tree.modules()),
            Some(tree.root.join("lib/modules")),
            Some(tree.root.clone()),
            None, // beside the image
        ] {
            let choice = KernelChoice::Given { image: tree.image(), modules: modules.clone() };
            let kernel =
                find(&choice, &ModuleSelection::FOR_GUESTS, &cache, &host(Path::new("/nowhere"))).unwrap();
            assert_eq!(kernel.modules.len(), 10, "{modules:?}");
            assert_eq!(kernel.release, RELEASE);
        }
    }

    #[test]
    fn modules_are_found_below_usr() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        fs::create_dir(tree.root.join("usr")).unwrap();
        fs::rename(tree.root.join("lib"), tree.root.join("usr/lib")).unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        for modules in [Some(tree.root.clone()), Some(tree.root.join("usr/lib/modules")), None] {
            let choice = KernelChoice::Given { image: tree.image(), modules: modules.clone() };
            let kernel =
                find(&choice, &ModuleSelection::FOR_GUESTS, &cache, &host(Path::new("/nowhere"))).unwrap();
            assert_eq!(kernel.modules.len(), 10, "{modules:?}");
        }
    }

    #[test]
    fn the_hosts_own_kernel_is_used_when_none_is_cached() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let cache = Cache::at(dir.path().join("cache"));
        let found =
            find(&KernelChoice::Auto, &ModuleSelection::FOR_GUESTS, &cache, &host(dir.path())).unwrap();
        assert_eq!(found.source, KernelSource::Host);
        assert_eq!(found.image, tree.image());
    }

    #[test]
    fn without_any_kernel_the_error_says_what_was_tried() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        let error = find(&KernelChoice::Auto, &ModuleSelection::FOR_GUESTS, &cache, &host(dir.path()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none in the cache"), "{error}");
        assert!(error.contains(&format!("boot/vmlinuz-{RELEASE}")), "{error}");
        assert!(error.contains("testbed setup"), "{error}");
    }

    #[test]
    fn what_cannot_be_looked_into_is_not_said_to_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let nowhere = host(Path::new("/nowhere"));
        let cache = Cache::at(dir.path().join("cache"));
        fs::create_dir_all(cache.path("kernels")).unwrap();
        std::os::unix::fs::symlink("current", cache.path(CURRENT)).unwrap();
        let error = find(&KernelChoice::Auto, &ModuleSelection::FOR_GUESTS, &cache, &nowhere).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the kernel in the cache is unusable (cannot find the kernel at "), "{text}");
        let modules = dir.path().join("file");
        fs::write(&modules, "").unwrap();
        let choice = KernelChoice::Given { image: tree.image(), modules: Some(modules) };
        let text = find(&choice, &ModuleSelection::FOR_GUESTS, &cache, &nowhere).unwrap_err().to_string();
        assert!(text.starts_with("cannot read the directory of modules "), "{text}");
    }

    #[test]
    fn the_error_for_a_kernel_without_modules_names_the_option() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        fs::remove_dir_all(dir.path().join("lib")).unwrap();
        let choice = KernelChoice::Given { image: tree.image(), modules: Some(dir.path().join("lib")) };
        let error =
            find(&choice, &ModuleSelection::FOR_GUESTS, &Cache::at("/nowhere"), &host(Path::new("/nowhere")))
                .unwrap_err();
        assert!(matches!(error, Error::NoModules { .. }), "{error}");
        assert!(error.to_string().contains("--modules"));
    }

    #[test]
    fn the_choice_is_read_from_the_options() {
        let modules = Path::new("/m");
        assert_eq!(KernelChoice::from_options(None, None), KernelChoice::Auto);
        assert_eq!(KernelChoice::from_options(Some("host"), None), KernelChoice::Host);
        assert_eq!(
            KernelChoice::from_options(Some("/k"), Some(modules)),
            KernelChoice::Given { image: "/k".into(), modules: Some(modules.to_path_buf()) }
        );
    }
}
