//! The files a guest boots from: a kernel and an initramfs that holds the stressor.
//!
//! [`prepare`] finds a kernel with its virtio modules, decompresses it (see [`Boot`]), builds the archive,
//! and keeps both in the user's cache under the digest of what they are made from, so that they are made once
//! per kernel and stressor. It changes nothing outside the cache, downloads nothing and needs no root;
//! [`adopt`] is how `testbed setup` puts a kernel into the cache for it.

mod cache;
mod compress;
mod elf;
mod error;
#[cfg(test)]
pub(crate) mod fixtures;
mod initramfs;
mod kernel;
mod modules;
mod vmlinux;

pub use cache::{Cache, Exclusive, Writer};
pub use elf::check_static;
pub use error::Error;
pub use kernel::{KernelChoice, KernelSource};
pub use modules::{LINKS, NEEDED};
pub use vmlinux::Boot;

use kernel::{CURRENT, Host, Kernel};
use modules::Wanted;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Changes whenever the archive is built differently from the same inputs.
const FORMAT: &str = "testbed-initramfs-1";

/// The environment variable that names the stressor to put into guests.
pub const STRESSOR_VARIABLE: &str = "TESTBED_STRESSOR";

/// What QEMU is given to boot a guest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GuestFiles {
    /// The kernel image: the one that was chosen, or what it decompresses to.
    pub kernel: PathBuf,
    /// Which of the two.
    pub boot: Boot,
    /// The archive the kernel unpacks and whose `/init` it starts.
    pub initramfs: PathBuf,
    /// The release the kernel names itself, as in `uname -r`.
    pub kernel_release: String,
    /// Where the kernel came from.
    pub kernel_source: KernelSource,
    /// SHA-256, in hexadecimal, of the kernel that was chosen and of everything in the archive: two guests
    /// with the same digest are the same guest.
    pub digest: String,
}

/// Makes a guest's files ready. Takes milliseconds when they are in the cache.
///
/// # Errors
/// When there is no kernel of that choice with the modules a guest needs, when the stressor is not a static
/// program, or when the cache cannot be written.
pub fn prepare(choice: &KernelChoice, stressor: &Path, cache: &Cache) -> Result<GuestFiles, Error> {
    prepare_on(choice, stressor, cache, &Host::running()?)
}

fn prepare_on(
    choice: &KernelChoice,
    stressor: &Path,
    cache: &Cache,
    host: &Host,
) -> Result<GuestFiles, Error> {
    let init = fs::read(stressor).map_err(Error::io("read the stressor", stressor))?;
    elf::check_static_bytes(stressor, &init)?;
    let kernel = kernel::find(choice, &Wanted::BY_GUESTS, cache, host)?;

    let mut content = Hasher::new(FORMAT);
    content.add("init", &init);
    for module in &kernel.modules {
        content.add(&module.name, &module.content);
    }
    let image_digest = content.finish();
    let initramfs = made_once(cache, "initramfs", &image_digest, || {
        initramfs::build(&init, &kernel.modules, &[])
            .map_err(Error::io("build", cache.path("initramfs").join(&image_digest).as_path()))
    })?;

    let mut guest = Hasher::new("testbed-guest-1");
    guest.add("kernel", &kernel.content);
    // Continued from the kernel's own hash: hashing it again would double what this takes when everything is
    // in the cache.
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

/// What is in a guest with another purpose than a migration.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The program that the kernel starts; it must be static.
    pub init: &'a Path,
    /// The modules it is to load. They and what they depend on are in `/modules`; `/modules/order` names them
    /// in the order to load them.
    pub modules: &'a [&'a str],
    /// Programs for `/programs`, by their file names; they must be static.
    pub programs: &'a [&'a Path],
}

/// A guest with another purpose than a migration.
#[derive(Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: KernelFound,
    /// The archive it unpacks, and whose `/init` it starts.
    pub initramfs: Vec<u8>,
}

/// Puts such a guest together. Writes nothing.
///
/// # Errors
/// When there is no kernel of that choice with these modules, or a program is not static.
pub fn assemble(choice: &KernelChoice, contents: &Contents<'_>, cache: &Cache) -> Result<Image, Error> {
    let program = |path: &Path| {
        let bytes = fs::read(path).map_err(Error::io("read the program", path))?;
        elf::check_static_bytes(path, &bytes)?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes))
    };
    let wanted = Wanted { required: contents.modules, optional: &[] };
    let kernel = kernel::find(choice, &wanted, cache, &Host::running()?)?;
    let (_, init) = program(contents.init)?;
    let programs = contents.programs.iter().map(|path| program(path)).collect::<Result<Vec<_>, Error>>()?;
    let programs: Vec<(&str, &[u8])> =
        programs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let initramfs = initramfs::build(&init, &kernel.modules, &programs)
        .map_err(Error::io("build an archive with", contents.init))?;
    let Kernel { image, release, source, .. } = kernel;
    Ok(Image { kernel: KernelFound { image, release, source }, initramfs })
}

/// A kernel image's decompressed kernel, if it has one that QEMU can start.
fn decompressed(cache: &Cache, image: &[u8], digest: &str) -> Result<Option<PathBuf>, Error> {
    let Some(payload) = vmlinux::Payload::of(image) else { return Ok(None) };
    // That there is none takes as long to find out: an empty entry remembers it.
    let path = made_once(cache, "vmlinux", digest, || Ok(payload.kernel().unwrap_or_default()))?;
    let size = fs::metadata(&path).map_err(Error::io("read", path.as_path()))?.len();
    Ok((size > 0).then_some(path))
}

/// The entry of this name in a directory of the cache, made if it is not there.
fn made_once(
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
    // Somebody else may have made it while this waited for the lock.
    if let Some(path) = cache.find(&entry) {
        return Ok(path);
    }
    let content = make()?;
    writer.prune(directory);
    writer.store_file(&entry, &content)
}

/// A kernel that a guest can boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFound {
    /// The image.
    pub image: PathBuf,
    /// The release it names itself.
    pub release: String,
    /// Where it came from.
    pub source: KernelSource,
}

/// The kernel of this choice, if it is there and has what a guest needs. Writes nothing.
///
/// # Errors
/// When there is none.
pub fn find_kernel(choice: &KernelChoice, cache: &Cache) -> Result<KernelFound, Error> {
    find_kernel_below(Path::new("/"), choice, cache)
}

/// As [`find_kernel`], with the host's own files below another root.
pub(crate) fn find_kernel_below(
    root: &Path,
    choice: &KernelChoice,
    cache: &Cache,
) -> Result<KernelFound, Error> {
    let host = Host { root: root.to_path_buf(), ..Host::running()? };
    let Kernel { image, release, source, .. } = kernel::find(choice, &Wanted::BY_GUESTS, cache, &host)?;
    Ok(KernelFound { image, release, source })
}

/// Copies a kernel into the cache, with its configuration, the modules a guest needs and those of [`LINKS`]
/// that it has, and makes it the one that [`KernelChoice::Auto`] finds. Returns its release.
///
/// # Errors
/// When that is no kernel, when modules are missing, or when the cache cannot be written.
pub fn adopt(image: &Path, modules: Option<&Path>, writer: &Writer<'_>) -> Result<String, Error> {
    let choice = KernelChoice::Given { image: image.to_path_buf(), modules: modules.map(Path::to_path_buf) };
    let kernel = kernel::find(&choice, &Wanted::FOR_THE_CACHE, writer.cache(), &Host::running()?)?;

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
    writer.point(CURRENT, Path::new(&name))?;
    Ok(kernel.release)
}

/// The stressor that guests are to run: the file `TESTBED_STRESSOR` names, else `stressor` beside the
/// running program. Whether it is there and static is [`check_static`]'s to say.
///
/// # Errors
/// When the running program's own path is unknown.
pub fn stressor_path() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os(STRESSOR_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let program = std::env::current_exe()
        .map_err(Error::io("find the running program at", Path::new("/proc/self/exe")))?;
    Ok(program.with_file_name("stressor"))
}

/// A digest of named parts; no two different lists of parts run into the same bytes.
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
        self.0.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests;
