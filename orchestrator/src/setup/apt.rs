//! Asks apt what it would do, and uses it to download packages, without changing anything on the system.
//!
//! apt runs with package lists in a private directory, read from this host's own sources, and with the host's
//! own database of installed packages. So its answers are valid for this host, need neither root nor an
//! earlier `apt-get update`, and a source can be tried before it is configured.

use super::{Error, Invocation, Output, Runner};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The metapackages that depend on the current kernel for virtual machines: Debian's and Ubuntu's.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// An apt whose package lists and cache are in a private directory.
pub(super) struct Apt<'a> {
    runner: &'a dyn Runner,
    /// The private directory.
    directory: PathBuf,
    /// The system's configuration directory, `/etc/apt`, which is only read.
    etc: PathBuf,
    /// The error messages of an incomplete update of the package lists.
    pub(super) incomplete: Option<String>,
}

/// The result of a simulated installation (`apt-get install -s`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Simulation {
    /// The names and versions of the packages that would be installed.
    pub(super) installed: Vec<(String, String)>,
    /// The names of those packages that would replace an older version.
    pub(super) upgraded: Vec<String>,
    /// The names of the packages that would be removed.
    pub(super) removed: Vec<String>,
    /// Whether a package would be replaced by an older version.
    pub(super) downgrades: bool,
}

/// A downloadable kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelPackage {
    /// The names of its packages; the first one contains the image.
    pub(super) packages: Vec<String>,
    /// The version of the first package.
    pub(super) version: String,
    /// The size of the download, in bytes.
    pub(super) size: u64,
}

impl<'a> Apt<'a> {
    /// Reads the package lists of the system's sources into `directory`. `etc` is `/etc/apt`, except in
    /// tests.
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

    /// Reads the package lists again, with one more source, given as the text of a `.sources` file.
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
        // The system's hooks must not run: they clean the system's own archives, for example.
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
        // No sandbox: the user `_apt` cannot enter the directories, which belong to the current user.
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

    /// Updates the package lists. An unreachable source is not an error, because the other sources may
    /// suffice; `incomplete` keeps the messages.
    fn update(&mut self) -> Result<(), Error> {
        let output = self.capture("apt-get", &["-q", "update"])?;
        if output.code != Some(0) {
            self.incomplete = Some(error_text(&output));
        }
        Ok(())
    }

    /// Simulates the installation of packages, from `suite` if given. The inner error is apt's message if it
    /// cannot install them.
    pub(super) fn simulate(
        &self,
        packages: &[String],
        suite: Option<&str>,
    ) -> Result<Result<Simulation, String>, Error> {
        let mut arguments = vec!["install", "-s", "--no-install-recommends"];
        arguments.extend(suite.into_iter().flat_map(|suite| ["-t", suite]));
        arguments.extend(packages.iter().map(String::as_str));
        let output = self.capture("apt-get", &arguments)?;
        if output.code != Some(0) {
            return Ok(Err(error_text(&output)));
        }
        Ok(Ok(Simulation::parse(&output.stdout)))
    }

    /// Finds the current kernel for virtual machines. Returns `None` if the sources have none.
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
            // Ubuntu has the modules in a separate package.
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

    /// Downloads a kernel and unpacks it without installing it. Returns the paths of the image and of the
    /// directory in which all its packages are unpacked.
    pub(super) fn fetch(&self, kernel: &KernelPackage) -> Result<(PathBuf, PathBuf), Error> {
        let download = self.directory.join("download");
        let unpacked = self.directory.join("unpacked");
        for directory in [&download, &unpacked] {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        let arguments: Vec<&str> =
            ["-q", "download"].into_iter().chain(kernel.packages.iter().map(String::as_str)).collect();
        // apt verifies the download against its signed package lists.
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
    /// Parses apt's output: lines like `Inst NAME [OLD] (NEW ORIGIN [ARCH])` and `Remv NAME [OLD]`.
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

    /// Returns the version of a package that would be installed, or `None` if it would not be changed.
    pub(super) fn version(&self, package: &str) -> Option<&str> {
        self.installed.iter().find(|(name, _)| name == package).map(|(_, version)| version.as_str())
    }
}

/// Runs a command and shows its output to the user. Every nonzero exit code is an error.
pub(super) fn run(runner: &dyn Runner, command: &Invocation) -> Result<(), Error> {
    let output = runner.show(command).map_err(|source| Error::Start { command: command.clone(), source })?;
    if output.code == Some(0) {
        return Ok(());
    }
    let message =
        if output.stderr.is_empty() { "see its output above".to_owned() } else { error_text(&output) };
    Err(Error::Command { command: command.clone(), code: output.code, message })
}

/// Extracts the error message from a command's output: the lines that start with `E: `, else the last line.
fn error_text(output: &Output) -> String {
    let errors: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("E: ")).collect();
    if errors.is_empty() {
        output.stderr.lines().last().unwrap_or("no error message").to_owned()
    } else {
        errors.join("; ")
    }
}

/// Returns the name of the first dependency that starts with `prefix`.
fn depends(fields: &BTreeMap<String, String>, prefix: &str) -> Option<String> {
    let list = fields.get("Depends")?;
    let names = list.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    names
        .map(|name| name.split(':').next().unwrap_or(name))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

/// Lists a directory. Returns the paths in alphabetical order.
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
    fn a_simulation_is_parsed() {
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
    fn the_error_text_is_taken_from_stderr() {
        let output = |stderr: &str| Output { stderr: stderr.to_owned(), ..Output::default() };
        assert_eq!(error_text(&output("W: old\nE: one\nE: two\n")), "E: one; E: two");
        assert_eq!(error_text(&output("first\nlast\n")), "last");
        assert_eq!(error_text(&output("")), "no error message");
    }
}
