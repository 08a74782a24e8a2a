//! The files from which a guest boots: a kernel and an initramfs that contains the stressor.
//!
//! [`prepare`] finds a kernel with its virtio modules, decompresses it (see [`Boot`]), builds the initramfs,
//! and keeps both in the user's cache under a digest of their inputs, so that each is made once per kernel
//! and stressor. It changes nothing outside the cache, downloads nothing and needs no root. [`adopt`] copies
//! a kernel into the cache; `testbed setup` calls it.

mod cache;
mod compress;
mod elf;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod initramfs;
mod kernel;
mod modules;
mod private;
mod vmlinux;

pub use cache::{Cache, CacheWriter, LockGuard};
pub use elf::check_static;
pub use error::{Error, STRESSOR_REMEDY};
pub use kernel::{KernelChoice, KernelSource};
pub use modules::{GUEST_MODULES, LINK_MODULES};
pub use vmlinux::Boot;

use crate::bounded;
use data_encoding::HEXLOWER;
use kernel::{CURRENT, HostKernel, Kernel};
use modules::ModuleSelection;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Part of the digest of an initramfs; changed whenever the same inputs give a different archive.
const FORMAT: &str = "testbed-initramfs-1";

/// The environment variable that names the stressor program for guests.
pub const STRESSOR_VARIABLE: &str = "TESTBED_STRESSOR";

/// The files from which QEMU boots a guest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GuestFiles {
    /// The kernel image: the chosen file, or the kernel that was decompressed from it.
    pub kernel: PathBuf,
    /// Whether `kernel` is the chosen file or the decompressed kernel.
    pub boot: Boot,
    /// The archive that the kernel unpacks and whose `/init` it starts.
    pub initramfs: PathBuf,
    /// The kernel's release, as `uname -r` prints it in the guest.
    pub kernel_release: String,
    pub kernel_source: KernelSource,
    /// SHA-256, in hexadecimal, of the chosen kernel image and of everything in the initramfs. Guests with
    /// the same digest are identical.
    pub digest: String,
}

impl GuestFiles {
    /// Returns the paths of the kernel image and of the archive.
    pub fn paths(&self) -> [&Path; 2] {
        [&self.kernel, &self.initramfs]
    }
}

/// Prepares a guest's files. Takes milliseconds if they are in the cache.
///
/// # Errors
/// If the chosen kernel does not exist or lacks a module that a guest needs, if the stressor is not a static
/// program, or if the cache cannot be written.
pub fn prepare(choice: &KernelChoice, stressor: &Path, cache: &Cache) -> Result<GuestFiles, Error> {
    prepare_on(choice, stressor, cache, &HostKernel::running()?)
}

fn prepare_on(
    choice: &KernelChoice,
    stressor: &Path,
    cache: &Cache,
    host: &HostKernel,
) -> Result<GuestFiles, Error> {
    let init = elf::read_stressor(stressor)?;
    elf::check_static_bytes(stressor, &init)?;
    let kernel = kernel::find(choice, &ModuleSelection::FOR_GUESTS, cache, host)?;

    let mut content = Hasher::new(FORMAT);
    content.add("init", &init);
    for module in &kernel.modules {
        content.add(&module.name, &module.content);
    }
    let image_digest = content.finish();
    let initramfs = find_or_create(cache, "initramfs", &image_digest, || {
        initramfs::build(&init, &kernel.modules, &[])
            .map_err(Error::io("build", cache.path("initramfs").join(&image_digest).as_path()))
    })?;

    let mut guest = Hasher::new("testbed-guest-1");
    guest.add("kernel", &kernel.content);
    // This continues from the hash of the kernel: hashing the kernel a second time would double the time that
    // this function takes when everything is in the cache.
    let mut plain = guest.clone();
    plain.add(vmlinux::FORMAT, b"");
    let unpacked = decompressed(cache, &kernel.content, &plain.finish())?;
    guest.add("initramfs", image_digest.as_bytes());
    Ok(GuestFiles {
        initramfs,
        digest: guest.finish(),
        kernel_source: kernel.source,
        kernel_release: kernel.release,
        boot: if unpacked.is_some() { Boot::Uncompressed } else { Boot::Compressed },
        kernel: unpacked.unwrap_or(kernel.image),
    })
}

/// The contents of a guest that is not for a migration, such as the guest that runs the tests of netem.
#[derive(Debug, Clone, Copy)]
pub struct ImageContents<'a> {
    /// The program that the kernel starts as `/init`. It must be static.
    pub init: &'a Path,
    /// The modules for `/init` to load. `/modules` holds them and their dependencies; `/modules/order` lists
    /// them in load order.
    pub modules: &'a [&'a str],
    /// Programs to copy to `/programs`, under their own file names. They must be static.
    pub programs: &'a [&'a Path],
}

/// A guest that is not for a migration, ready to boot.
#[derive(Debug)]
pub struct GuestImage {
    pub kernel: FoundKernel,
    /// The archive that the kernel unpacks and whose `/init` it starts.
    pub initramfs: Vec<u8>,
}

/// Builds a guest that is not for a migration. Writes nothing.
///
/// # Errors
/// If the chosen kernel does not exist or lacks one of the modules, or if a program is not static.
pub fn assemble(
    choice: &KernelChoice,
    contents: &ImageContents<'_>,
    cache: &Cache,
) -> Result<GuestImage, Error> {
    let program = |path: &Path| {
        let bytes =
            bounded::read_file(path, elf::MAX_PROGRAM_BYTES).map_err(Error::io("read the program", path))?;
        elf::check_static_bytes(path, &bytes)?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes))
    };
    let wanted = ModuleSelection { required: contents.modules, optional: &[] };
    let kernel = kernel::find(choice, &wanted, cache, &HostKernel::running()?)?;
    let (_, init) = program(contents.init)?;
    let programs = contents.programs.iter().map(|path| program(path)).collect::<Result<Vec<_>, Error>>()?;
    let programs: Vec<(&str, &[u8])> =
        programs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let initramfs = initramfs::build(&init, &kernel.modules, &programs)
        .map_err(Error::io("build an archive with", contents.init))?;
    let Kernel { image, release, source, .. } = kernel;
    Ok(GuestImage { kernel: FoundKernel { image, release, source }, initramfs })
}

/// Decompresses the kernel in a kernel image, or finds it in the cache. Returns its path, or `None` if the
/// image contains no kernel that QEMU can start directly.
fn decompressed(cache: &Cache, image: &[u8], digest: &str) -> Result<Option<PathBuf>, Error> {
    let Some(compressed) = vmlinux::CompressedKernel::find(image) else { return Ok(None) };
    // A failed attempt takes just as long, so an empty entry records the failure.
    let path = find_or_create(cache, "vmlinux", digest, || Ok(compressed.decompress().unwrap_or_default()))?;
    let size = fs::metadata(&path).map_err(Error::io("read", path.as_path()))?.len();
    Ok((size > 0).then_some(path))
}

/// Creates an entry in a directory of the cache unless it exists. Returns its path.
fn find_or_create(
    cache: &Cache,
    directory: &str,
    name: &str,
    make: impl FnOnce() -> Result<Vec<u8>, Error>,
) -> Result<PathBuf, Error> {
    let entry = format!("{directory}/{name}");
    if let Some(path) = cache.find(&entry) {
        return Ok(path);
    }
    let writer = cache.lock()?;
    // Another process may have created the entry while this one waited for the lock.
    if let Some(path) = cache.find(&entry) {
        return Ok(path);
    }
    let content = make()?;
    writer.prune(directory);
    writer.store_file(&entry, &content)
}

/// A kernel that has every module a guest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKernel {
    pub image: PathBuf,
    /// The kernel's release, read from the image.
    pub release: String,
    pub source: KernelSource,
}

/// Finds the chosen kernel and checks that it has every module a guest needs. Writes nothing.
///
/// # Errors
/// If the kernel does not exist or lacks a module.
pub fn find_kernel(choice: &KernelChoice, cache: &Cache) -> Result<FoundKernel, Error> {
    find_kernel_below(Path::new("/"), choice, cache)
}

/// Does the same as [`find_kernel`], but looks for the host's kernel below `root` instead of `/`.
pub(crate) fn find_kernel_below(
    root: &Path,
    choice: &KernelChoice,
    cache: &Cache,
) -> Result<FoundKernel, Error> {
    let host = HostKernel { root: root.to_path_buf(), ..HostKernel::running()? };
    let Kernel { image, release, source, .. } =
        kernel::find(choice, &ModuleSelection::FOR_GUESTS, cache, &host)?;
    Ok(FoundKernel { image, release, source })
}

/// Copies a kernel into the cache, with its configuration, the modules that a guest needs and its modules
/// among [`LINK_MODULES`], and makes it the kernel that [`KernelChoice::Auto`] selects. Returns its release.
///
/// # Errors
/// If the file is not a kernel, if modules are missing, or if the cache cannot be written.
pub fn adopt(image: &Path, modules: Option<&Path>, writer: &CacheWriter<'_>) -> Result<String, Error> {
    let choice = KernelChoice::Given { image: image.to_path_buf(), modules: modules.map(Path::to_path_buf) };
    let kernel = kernel::find(&choice, &ModuleSelection::FOR_CACHE, writer.cache(), &HostKernel::running()?)?;

    let mut content = Hasher::new("testbed-kernel-1");
    content.add("kernel", &kernel.content);
    for module in &kernel.modules {
        content.add(&module.name, &module.content);
    }
    let name = format!("{}-{}", kernel.release, &content.finish()[..16]);

    let prepared = writer.scratch_directory()?;
    let put = |file: &str, content: &[u8]| {
        let path = prepared.path().join(file);
        fs::write(&path, content).map_err(Error::io("write", path.as_path()))
    };
    put("vmlinuz", &kernel.content)?;
    let directory = prepared.path().join("modules");
    fs::create_dir(&directory).map_err(Error::io("create", directory.as_path()))?;
    for module in &kernel.modules {
        put(&format!("modules/{}.ko", module.name), &module.content)?;
    }
    if let Some(config) = &kernel.config {
        put("config", config.as_bytes())?;
    }
    put("modules/modules.builtin", kernel.builtin.as_deref().unwrap_or_default().as_bytes())?;
    writer.store_directory(format!("kernels/{name}"), prepared)?;
    writer.link(CURRENT, Path::new(&name))?;
    Ok(kernel.release)
}

/// Returns the path of the stressor program for guests: the file that `TESTBED_STRESSOR` names, else
/// `stressor` in the directory of the running program. Does not check the file; [`check_static`] does.
///
/// # Errors
/// If the path of the running program is unknown.
pub fn stressor_path() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os(STRESSOR_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let program = std::env::current_exe()
        .map_err(Error::io("find the running program at", Path::new("/proc/self/exe")))?;
    Ok(program.with_file_name("stressor"))
}

/// A SHA-256 digest of a list of named parts. Each name and each content is preceded by its length, so two
/// different lists never hash the same bytes.
#[derive(Clone)]
struct Hasher(Sha256);

impl Hasher {
    fn new(kind: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.add(kind, b"");
        hasher
    }

    fn add(&mut self, name: &str, content: &[u8]) {
        for part in [name.as_bytes(), content] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    fn finish(self) -> String {
        HEXLOWER.encode(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests;
