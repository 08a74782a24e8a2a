//! Where the guest's kernel comes from.
//!
//! In this order, unless one is chosen: the kernel in the cache (adopted by `testbed setup`, which downloads
//! the distribution's package or takes a given file), then the kernel this host runs. Nothing is downloaded
//! here.

use super::{
    Cache, Error,
    modules::{Module, Modules, Wanted},
};
use std::{
    convert::Infallible,
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The entry of the cache that leads to the kernel in use.
pub(super) const CURRENT: &str = "kernels/current";

/// Which kernel the guest is to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The one in the cache, else the one this host runs.
    #[default]
    Auto,
    /// The one in the cache.
    Cached,
    /// The one this host runs.
    Host,
    /// This file.
    Given {
        /// The kernel: a bzImage, which distributions name `vmlinuz`.
        image: PathBuf,
        /// Its modules, as in `/lib/modules/RELEASE`. If not given they are looked for beside the image and
        /// in `/lib/modules`.
        modules: Option<PathBuf>,
    },
}

impl KernelChoice {
    /// What `--kernel` and `--modules` say together. The directory counts only where the kernel is a path:
    /// the others have modules of their own.
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

    /// `auto`, `cached`, `host`, or a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "cached" => Self::Cached,
            "host" => Self::Host,
            path => Self::Given { image: path.into(), modules: None },
        })
    }
}

/// Where a guest's kernel came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSource {
    /// A file the user named.
    Given,
    /// The cache.
    Cached,
    /// The kernel this host runs.
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

/// A kernel with what is wanted of its modules, read completely.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) content: Vec<u8>,
    pub(super) release: String,
    pub(super) source: KernelSource,
    /// In the order they are loaded in.
    pub(super) modules: Vec<Module>,
    /// Which of its parts are built in, for a copy of it.
    pub(super) config: Option<String>,
    pub(super) builtin: Option<String>,
}

/// The kernel this host runs, as far as files tell.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// `/`, except in tests.
    pub(super) root: PathBuf,
    pub(super) release: String,
}

impl Host {
    pub(super) fn running() -> Result<Self, Error> {
        let path = Path::new("/proc/sys/kernel/osrelease");
        let release = fs::read_to_string(path).map_err(Error::io("read", path))?;
        Ok(Self { root: PathBuf::from("/"), release: release.trim().to_owned() })
    }

    fn find(&self, wanted: &Wanted<'_>) -> Result<Kernel, Error> {
        let modules = self.root.join("lib/modules").join(&self.release);
        let image = self.root.join("boot").join(format!("vmlinuz-{}", self.release));
        let beside_modules = modules.join("vmlinuz");
        let image = if !image.exists() && beside_modules.exists() { beside_modules } else { image };
        read(&image, Some(&modules), KernelSource::Host, wanted)
    }
}

/// Finds and reads the kernel of this choice.
pub(super) fn find(
    choice: &KernelChoice,
    wanted: &Wanted<'_>,
    cache: &Cache,
    host: &Host,
) -> Result<Kernel, Error> {
    match choice {
        KernelChoice::Given { image, modules } => {
            read(image, modules.as_deref(), KernelSource::Given, wanted)
        }
        KernelChoice::Host => host.find(wanted),
        KernelChoice::Cached => cached(cache, wanted)
            .unwrap_or_else(|| Err(Error::NoKernel { tried: vec!["none is in the cache".to_owned()] })),
        KernelChoice::Auto => {
            let mut tried = Vec::new();
            match cached(cache, wanted) {
                Some(Ok(kernel)) => return Ok(kernel),
                Some(Err(error)) => tried.push(format!("the one in the cache does not serve ({error})")),
                None => tried.push("none is in the cache".to_owned()),
            }
            host.find(wanted).map_err(|error| {
                tried.push(format!("this host's own does not serve ({error})"));
                Error::NoKernel { tried }
            })
        }
    }
}

/// The kernel in the cache, if there is one.
fn cached(cache: &Cache, wanted: &Wanted<'_>) -> Option<Result<Kernel, Error>> {
    // Resolved once, so that a set-up that replaces the kernel meanwhile does not mix two.
    let directory = cache.path(CURRENT).canonicalize().ok()?;
    Some(read(&directory.join("vmlinuz"), Some(&directory.join("modules")), KernelSource::Cached, wanted))
}

fn read(
    image: &Path,
    given: Option<&Path>,
    source: KernelSource,
    wanted: &Wanted<'_>,
) -> Result<Kernel, Error> {
    let content = fs::read(image).map_err(Error::io("read the kernel", image))?;
    let release =
        release_of(&content).map_err(|why| Error::NotAKernel { path: image.to_path_buf(), why })?.to_owned();
    let beside = image.parent().unwrap_or(Path::new("."));
    let config = [beside.join("config"), beside.join(format!("config-{release}"))]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok());

    let places: Vec<PathBuf> = match given {
        Some(given) => {
            // Packages have them in `usr` since /lib is a link to there (Debian 13).
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
    let modules = match directory {
        Some(directory) => Modules::read(&release, directory, config.as_deref())?,
        None => Modules::none(&release, &places[0], config.as_deref()),
    };
    let modules = modules.select(wanted).map_err(|error| match error {
        // What is missing is then not a module but all of them.
        Error::MissingModule { .. } if directory.is_none() => {
            Error::NoModules { release: release.clone(), looked: places.clone() }
        }
        error => error,
    })?;
    let builtin = directory.and_then(|place| fs::read_to_string(place.join("modules.builtin")).ok());
    Ok(Kernel { image: image.to_path_buf(), content, release, source, modules, config, builtin })
}

/// Whether a directory is one of modules, rather than one above it.
fn holds_modules(directory: &Path) -> bool {
    let is_one = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name == "kernel" || name.starts_with("modules.") || name.contains(".ko")
    };
    fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(|entry| is_one(&entry.file_name())))
}

/// The release that a kernel image names in its boot header (Linux's Documentation/arch/x86/boot.rst).
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
    let end = text.iter().take(256).position(|byte| byte.is_ascii_whitespace() || *byte == 0);
    end.and_then(|end| std::str::from_utf8(&text[..end]).ok())
        .filter(|release| !release.is_empty())
        .ok_or("its boot header names no version")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{RELEASE, Tree, kernel};
    use super::*;

    fn host(root: &Path) -> Host {
        Host { root: root.to_path_buf(), release: RELEASE.to_owned() }
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
    fn modules_are_found_from_the_directory_or_one_above() {
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
            let kernel = find(&choice, &Wanted::BY_GUESTS, &cache, &host(Path::new("/nowhere"))).unwrap();
            assert_eq!(kernel.modules.len(), 9, "{modules:?}");
            assert_eq!(kernel.release, RELEASE);
        }
    }

    #[test]
    fn modules_are_found_where_packages_of_a_merged_usr_have_them() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        fs::create_dir(tree.root.join("usr")).unwrap();
        fs::rename(tree.root.join("lib"), tree.root.join("usr/lib")).unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        for modules in [Some(tree.root.clone()), Some(tree.root.join("usr/lib/modules")), None] {
            let choice = KernelChoice::Given { image: tree.image(), modules: modules.clone() };
            let kernel = find(&choice, &Wanted::BY_GUESTS, &cache, &host(Path::new("/nowhere"))).unwrap();
            assert_eq!(kernel.modules.len(), 9, "{modules:?}");
        }
    }

    #[test]
    fn the_hosts_own_kernel_is_used_when_none_is_cached() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        let cache = Cache::at(dir.path().join("cache"));
        let found = find(&KernelChoice::Auto, &Wanted::BY_GUESTS, &cache, &host(dir.path())).unwrap();
        assert_eq!(found.source, KernelSource::Host);
        assert_eq!(found.image, tree.image());
    }

    #[test]
    fn without_any_kernel_the_error_says_what_was_tried() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        let error =
            find(&KernelChoice::Auto, &Wanted::BY_GUESTS, &cache, &host(dir.path())).unwrap_err().to_string();
        assert!(error.contains("none is in the cache"), "{error}");
        assert!(error.contains(&format!("boot/vmlinuz-{RELEASE}")), "{error}");
        assert!(error.contains("testbed setup"), "{error}");
    }

    #[test]
    fn a_kernel_without_modules_asks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path());
        fs::remove_dir_all(dir.path().join("lib")).unwrap();
        let choice = KernelChoice::Given { image: tree.image(), modules: Some(dir.path().join("lib")) };
        let error = find(&choice, &Wanted::BY_GUESTS, &Cache::at("/nowhere"), &host(Path::new("/nowhere")))
            .unwrap_err();
        assert!(matches!(error, Error::NoModules { .. }), "{error}");
        assert!(error.to_string().contains("--modules"));
    }

    #[test]
    fn options_say_which() {
        let modules = Path::new("/m");
        assert_eq!(KernelChoice::from_options(None, None), KernelChoice::Auto);
        assert_eq!(KernelChoice::from_options(Some("host"), None), KernelChoice::Host);
        assert_eq!(
            KernelChoice::from_options(Some("/k"), Some(modules)),
            KernelChoice::Given { image: "/k".into(), modules: Some(modules.to_path_buf()) }
        );
    }
}
