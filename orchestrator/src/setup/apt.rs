//! Asks apt what it would do, and has it fetch packages, without changing anything on the system.
//!
//! apt is given package lists of its own in a private directory, read from the machine's own sources, and
//! the machine's own record of installed packages. So its answers hold for this machine, they need no root
//! and no earlier `apt-get update`, and a source can be tried before it is configured.

use super::{Error, Invocation, Output, Runner};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Packages that depend on the current kernel for virtual machines: Debian's, Ubuntu's.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// apt with a private state.
pub(super) struct Apt<'a> {
    runner: &'a dyn Runner,
    /// Where the state is.
    directory: PathBuf,
    /// The system's configuration directory, which is only read.
    etc: PathBuf,
    /// What kept the lists from being read completely, if anything.
    pub(super) incomplete: Option<String>,
}

/// What an installation would do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Simulation {
    /// Packages with the versions that would be installed.
    pub(super) installed: Vec<(String, String)>,
    /// Those among them that replace an older version.
    pub(super) upgraded: Vec<String>,
    /// Packages that would be removed.
    pub(super) removed: Vec<String>,
    /// Whether a package would be replaced by an older version.
    pub(super) downgrades: bool,
}

/// A kernel that can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelPackage {
    /// The packages it consists of, the one with the image first.
    pub(super) packages: Vec<String>,
    /// The version of the first.
    pub(super) version: String,
    /// What is downloaded, in bytes.
    pub(super) size: u64,
}

impl<'a> Apt<'a> {
    /// Reads the package lists of the system's sources into this directory.
    pub(super) fn open(runner: &'a dyn Runner, etc: &Path, directory: &Path) -> Result<Self, Error> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let mut apt =
            Self { runner, directory: directory.to_path_buf(), etc: etc.to_path_buf(), incomplete: None };
        apt.configure(None)?;
        apt.update()?;
        Ok(apt)
    }

    /// Reads the lists of one more source, given as the text of a `.sources` file.
    pub(super) fn try_source(&mut self, text: &str) -> Result<(), Error> {
        let parts = self.directory.join("sources");
        fs::create_dir_all(&parts).map_err(Error::io("create", &parts))?;
        let configured = self.etc.join("sources.list.d");
        for entry in fs::read_dir(&configured).into_iter().flatten().flatten() {
            let copy = parts.join(entry.file_name());
            fs::copy(entry.path(), &copy).map_err(Error::io("copy to", &copy))?;
        }
        let added = parts.join("testbed-backports.sources");
        fs::write(&added, text).map_err(Error::io("write", &added))?;
        self.configure(Some(&parts))?;
        self.update()
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    fn configure(&self, sources: Option<&Path>) -> Result<(), Error> {
        let mut text = String::new();
        // Hooks of the system's, such as cleaning its own archives, have no business here.
        for hook in [
            "APT::Update::Pre-Invoke",
            "APT::Update::Post-Invoke",
            "APT::Update::Post-Invoke-Success",
            "DPkg::Pre-Invoke",
            "DPkg::Post-Invoke",
            "DPkg::Pre-Install-Pkgs",
            "Acquire::IndexTargets::deb::DEP-11",
        ] {
            let _ = writeln!(text, "#clear {hook};");
        }
        let state = self.directory.join("state");
        let cache = self.directory.join("cache");
        // The directories are this user's own, which apt's own user cannot reach: hence no sandbox.
        let _ = write!(
            text,
            "Dir::State \"{}\";\nDir::Cache \"{}\";\nAPT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\nAcquire::GzipIndexes \"true\";\n",
            state.display(),
            cache.display(),
        );
        if let Some(sources) = sources {
            let _ = writeln!(text, "Dir::Etc::SourceParts \"{}\";", sources.display());
        }
        let path = self.configuration();
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Invocation {
        let configuration = self.configuration().display().to_string();
        let own = ["-c".to_owned(), configuration];
        Invocation::new(program, own.into_iter().chain(arguments.iter().map(|word| (*word).to_owned())))
    }

    fn capture(&self, program: &str, arguments: &[&str]) -> Result<Output, Error> {
        let command = self.command(program, arguments);
        self.runner.capture(&command).map_err(|source| Error::Start { command, source })
    }

    /// One source that cannot be reached must not hide the others: what came is used.
    fn update(&mut self) -> Result<(), Error> {
        let output = self.capture("apt-get", &["-q", "update"])?;
        if output.code != Some(0) {
            self.incomplete = Some(said(&output));
        }
        Ok(())
    }

    /// What installing a package would do. An error in words when apt sees no way.
    pub(super) fn simulate(
        &self,
        package: &str,
        suite: Option<&str>,
    ) -> Result<Result<Simulation, String>, Error> {
        let mut arguments = vec!["install", "-s", "--no-install-recommends"];
        arguments.extend(suite.into_iter().flat_map(|suite| ["-t", suite]));
        arguments.push(package);
        let output = self.capture("apt-get", &arguments)?;
        if output.code != Some(0) {
            return Ok(Err(said(&output)));
        }
        Ok(Ok(Simulation::parse(&output.stdout)))
    }

    /// The current kernel for virtual machines, if the sources have one.
    pub(super) fn kernel(&self) -> Result<Option<KernelPackage>, Error> {
        for metapackage in KERNELS {
            let Some(described) = self.describe(metapackage)? else { continue };
            let Some(image) = depends(&described, "linux-image-") else { continue };
            let Some(fields) = self.describe(&image)? else { continue };
            let version = fields.get("Version").cloned().unwrap_or_default();
            let size = |fields: &BTreeMap<String, String>| {
                fields.get("Size").and_then(|size| size.parse::<u64>().ok()).unwrap_or(0)
            };
            let mut kernel = KernelPackage { packages: vec![image], version, size: size(&fields) };
            // Where the modules have a package of their own.
            if let Some(modules) = depends(&fields, "linux-modules-") {
                kernel.size += self.describe(&modules)?.map_or(0, |fields| size(&fields));
                kernel.packages.push(modules);
            }
            return Ok(Some(kernel));
        }
        Ok(None)
    }

    fn describe(&self, package: &str) -> Result<Option<BTreeMap<String, String>>, Error> {
        let output = self.capture("apt-cache", &["show", "--no-all-versions", package])?;
        let fields: BTreeMap<String, String> = output
            .stdout
            .lines()
            .filter(|line| !line.starts_with(' '))
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok((output.code == Some(0) && !fields.is_empty()).then_some(fields))
    }

    /// Downloads a kernel and unpacks it without installing it. Returns the image and the directory that
    /// everything was unpacked in.
    pub(super) fn fetch(&self, kernel: &KernelPackage) -> Result<(PathBuf, PathBuf), Error> {
        let download = self.directory.join("download");
        let unpacked = self.directory.join("unpacked");
        for directory in [&download, &unpacked] {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        let arguments: Vec<&str> =
            ["-q", "download"].into_iter().chain(kernel.packages.iter().map(String::as_str)).collect();
        // apt checks what it downloads against the signed lists.
        run(self.runner, &self.command("apt-get", &arguments).within(&download))?;
        for archive in files(&download)? {
            let (archive, unpacked) = (archive.display().to_string(), unpacked.display().to_string());
            run(self.runner, &Invocation::new("dpkg-deb", ["-x", &archive, &unpacked]))?;
        }
        let boot = unpacked.join("boot");
        let image = files(&boot)?
            .into_iter()
            .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
            .ok_or_else(|| Error::NoKernelPackage {
                tried: format!("{} holds no vmlinuz", kernel.packages.join(" ")),
            })?;
        Ok((image, unpacked))
    }
}

impl Simulation {
    /// From lines such as `Inst NAME [OLD] (NEW ORIGIN [ARCH])` and `Remv NAME [OLD]`.
    fn parse(text: &str) -> Self {
        let mut simulation = Self { downgrades: text.contains("will be DOWNGRADED"), ..Self::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Inst"), Some(name)) => {
                    let version = line.split_once('(').and_then(|(_, new)| new.split_whitespace().next());
                    simulation.installed.push((name.to_owned(), version.unwrap_or_default().to_owned()));
                    if words.next().is_some_and(|word| word.starts_with('[')) {
                        simulation.upgraded.push(name.to_owned());
                    }
                }
                (Some("Remv"), Some(name)) => simulation.removed.push(name.to_owned()),
                _ => {}
            }
        }
        simulation
    }

    /// The version a package would have afterwards, if this changes it.
    pub(super) fn version(&self, package: &str) -> Option<&str> {
        self.installed.iter().find(|(name, _)| name == package).map(|(_, version)| version.as_str())
    }
}

/// Runs a command and takes every end but a good one for an error.
pub(super) fn run(runner: &dyn Runner, command: &Invocation) -> Result<(), Error> {
    let output = runner.show(command).map_err(|source| Error::Start { command: command.clone(), source })?;
    if output.code == Some(0) {
        return Ok(());
    }
    let said = if output.stderr.is_empty() { "see above".to_owned() } else { said(&output) };
    Err(Error::Command { command: command.clone(), code: output.code, said })
}

/// What went wrong, from a command's output: its errors, else its last line.
fn said(output: &Output) -> String {
    let errors: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("E: ")).collect();
    if errors.is_empty() {
        output.stderr.lines().last().unwrap_or("it did not say why").to_owned()
    } else {
        errors.join("; ")
    }
}

/// The first dependency whose name begins like this.
fn depends(fields: &BTreeMap<String, String>, prefix: &str) -> Option<String> {
    let list = fields.get("Depends")?;
    let names = list.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names
        .map(|name| name.split(':').next().unwrap_or(name))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read =
        || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut all = read().map_err(Error::io("list", directory))?;
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_read_from_what_apt_prints() {
        let text = "\
Reading package lists...
The following packages will be REMOVED:
  qemu-utils
Remv qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1]
Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])
Inst qemu-system-x86 [1:6.0-1] (1:7.2+dfsg-7+deb12u18+b3 Debian:12.15/oldstable [amd64])
Conf seabios (1.16.2-1 Debian:12.15/oldstable [all])
";
        let simulation = Simulation::parse(text);
        assert_eq!(simulation.removed, ["qemu-utils"]);
        assert_eq!(simulation.version("qemu-system-x86"), Some("1:7.2+dfsg-7+deb12u18+b3"));
        assert_eq!(simulation.version("seabios"), Some("1.16.2-1"));
        assert_eq!(simulation.version("qemu-utils"), None);
        assert_eq!(simulation.upgraded, ["qemu-system-x86"]);
        assert!(!simulation.downgrades);
        assert!(Simulation::parse("The following packages will be DOWNGRADED:\n").downgrades);
    }

    #[test]
    fn a_dependency_is_found_among_alternatives() {
        let fields = |depends: &str| BTreeMap::from([("Depends".to_owned(), depends.to_owned())]);
        assert_eq!(
            depends(&fields("linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)"), "linux-image-").as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        let ubuntu = fields("kmod, linux-base (>= 4.5), linux-modules-6.8.0-50-generic | other");
        assert_eq!(depends(&ubuntu, "linux-modules-").as_deref(), Some("linux-modules-6.8.0-50-generic"));
        assert_eq!(depends(&ubuntu, "linux-image-"), None);
    }

    #[test]
    fn what_apt_complains_of_is_passed_on() {
        let output = |stderr: &str| Output { stderr: stderr.to_owned(), ..Output::default() };
        assert_eq!(said(&output("W: old\nE: one\nE: two\n")), "E: one; E: two");
        assert_eq!(said(&output("first\nlast\n")), "last");
        assert_eq!(said(&output("")), "it did not say why");
    }
}
