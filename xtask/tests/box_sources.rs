//! Tests of vagrant/box/sources.sh with a private apt: its configuration, its state and its archives (local
//! folders) belong to the test.
#![allow(clippy::print_stdout, reason = "the output of a test says what failed or why it was skipped")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A package list with one package: apt does not list suites without packages.
const PACKAGES: &str = "Package: nothing\nVersion: 1\nArchitecture: amd64\nFilename: nothing.deb\nSize: 1\n";

/// An apt whose configuration and state are in a temporary directory.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        for folder in [
            "etc/sources.list.d",
            "etc/apt.conf.d",
            "etc/preferences.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("status"), "").unwrap();
        let config = format!(
            "Dir::Etc \"{0}/etc\";\nDir::Etc::sourcelist \"{0}/etc/sources.list\";\n\
             Dir::Etc::sourceparts \"{0}/etc/sources.list.d\";\nDir::State \"{0}/state\";\n\
             Dir::State::status \"{0}/status\";\nDir::Cache \"{0}/cache\";\nAPT::Architecture \"amd64\";\n\
             APT::Sandbox::User \"root\";\n",
            root.display()
        );
        fs::write(root.join("apt.conf"), config).unwrap();
        Self { root }
    }

    /// Creates an archive with one suite of one package. Returns its URI.
    fn archive(&self, name: &str, suite: &str, codename: &str, origin: &str) -> String {
        let archive = self.root.join(name);
        let dist = archive.join("dists").join(suite);
        fs::create_dir_all(dist.join("main/binary-amd64")).unwrap();
        fs::write(dist.join("main/binary-amd64/Packages"), PACKAGES).unwrap();
        let release = format!(
            "Origin: {origin}\nSuite: {suite}\nCodename: {codename}\nArchitectures: amd64\nComponents: main\n\
             Date: Sat, 10 Jun 2023 08:00:00 UTC\nSHA256:\n \
             2518265c3676c7b148fd85e08fb81e6515f2c5ff9539368b1f93febaf0ea5b38 78 main/binary-amd64/Packages\n"
        );
        fs::write(dist.join("Release"), release).unwrap();
        format!("file:{}", archive.display())
    }

    fn configure(&self, file: &str, text: &str) {
        fs::write(self.root.join("etc").join(file), text).unwrap();
    }

    fn run(&self, command: &mut Command) -> String {
        let output =
            command.env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C").output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        println!("{stderr}");
        assert!(output.status.success(), "{stdout}{stderr}");
        stdout
    }

    /// Runs `apt-get update` and then the script. Returns what the script prints for a release.
    fn sources(&self, codename: &str) -> String {
        println!("{}", self.run(Command::new("apt-get").args(["update", "-q"])));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vagrant/box/sources.sh");
        self.run(Command::new(script).arg(codename))
    }
}

impl Drop for Apt {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn sources_of_the_release_are_found_in_every_format_and_no_other_sources() {
    if Command::new("apt-get").arg("--version").output().is_err() {
        println!("skipped: apt-get is not installed");
        return;
    }
    let apt = Apt::new("sources");
    let main = apt.archive("debian", "bookworm", "bookworm", "Debian");
    apt.archive("debian", "bookworm-backports", "bookworm-backports", "Debian Backports");
    apt.archive("debian", "trixie", "trixie", "Debian");
    let security = apt.archive("security", "oldstable-security", "bookworm-security", "Debian");
    let other = apt.archive("other", "bookworm", "bookworm", "Somebody");
    apt.configure(
        "sources.list",
        &format!(
            "# deb {main} bookworm main\n\
             deb [ arch=amd64 trusted=yes ] {main}/ bookworm main contrib # the release\n\
             deb-src [trusted=yes] {main} bookworm main\n\
             deb [trusted=yes] {other} bookworm main\n"
        ),
    );
    apt.configure(
        "sources.list.d/more.sources",
        &format!(
            "# More.\nTypes: deb deb-src\nURIs: {main}\nSuites: bookworm-backports\n trixie\n\
             Components: main\nTrusted: yes\n\nTypes: deb\nURIs: {security}\nSuites: oldstable-security\n\
             Components: main\nTrusted: yes\n\n\
             Enabled: no\nTypes: deb\nURIs: {main}\nSuites: bookworm\nComponents: main\n"
        ),
    );
    apt.configure("sources.list.d/old.list.save", &format!("deb {main} bookworm main\n"));
    let paragraph = |address: &str, suite: &str| {
        format!("Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: main\nTrusted: yes\n\n")
    };
    let expected = paragraph(&format!("{main}/"), "bookworm")
        + &paragraph(&main, "bookworm-backports")
        + &paragraph(&security, "oldstable-security");
    assert_eq!(apt.sources("bookworm"), expected);
    assert_eq!(apt.sources("trixie"), paragraph(&main, "trixie"));
    assert_eq!(apt.sources("forky"), "");
}

#[test]
fn signing_keys_are_copied_unchanged() {
    if Command::new("apt-get").arg("--version").output().is_err() {
        println!("skipped: apt-get is not installed");
        return;
    }
    let apt = Apt::new("keys");
    let (one, two) = ("/usr/share/keyrings/one.gpg", "-----BEGIN PGP PUBLIC KEY BLOCK-----");
    let main = apt.archive("debian", "bookworm", "bookworm", "Debian");
    let updates = apt.archive("updates", "bookworm-updates", "bookworm-updates", "Debian");
    apt.configure("sources.list", &format!("deb [signed-by={one} trusted=yes] {main} bookworm main\n"));
    apt.configure(
        "sources.list.d/a.sources",
        &format!(
            "Types: deb\nURIs: {updates}\nSuites: bookworm-updates\nComponents: main\nTrusted: yes\n\
             Signed-By:\n {two}\n .\n end\n"
        ),
    );
    let printed = apt.sources("bookworm");
    assert!(printed.contains(&format!("Signed-By: {one}\nTrusted: yes\n")), "{printed}");
    assert!(printed.contains(&format!("Signed-By: \n {two}\n .\n end\nTrusted: yes\n")), "{printed}");
}
