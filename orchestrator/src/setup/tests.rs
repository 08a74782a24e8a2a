//! Tests of `testbed setup` on hosts with scripted answers to commands.

use super::runner::fake::FakeRunner;
use super::*;
use crate::image::{
    Cache,
    fixtures::{RELEASE, Tree, program},
};

const QEMU: &str = "QEMU emulator version 10.0.2 (Debian)\n";
const PLAIN: &str = "Inst qemu-system-x86 (1:7.2+dfsg-7 Debian:12 [amd64])\n";
const REMOVES: &str = "Remv qemu-utils [1:10.0.2]\nInst qemu-system-x86 (1:7.2+dfsg-7 Debian:12 [amd64])\n";
const NEWER: &str = "Inst seabios (1.16.3-2 Backports [all])\n\
                     Inst qemu-system-x86 (1:10.0.2+ds-2 Backports [amd64])\n";

/// A user with a fixed answer to every question. Records the lines and the questions.
#[derive(Default)]
struct ScriptedPrompt {
    said: Vec<String>,
    answer: Option<bool>,
}

impl Prompt for ScriptedPrompt {
    fn say(&mut self, line: &str) {
        self.said.push(line.to_owned());
    }

    fn ask(&mut self, question: &str) -> Option<bool> {
        self.said.push(question.to_owned());
        self.answer
    }

    fn interactive(&self) -> bool {
        self.answer.is_some()
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    stressor: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stressor = dir.path().join("stressor");
        fs::write(&stressor, program(false)).unwrap();
        let etc = dir.path().join("etc/apt/sources.list.d");
        fs::create_dir_all(&etc).unwrap();
        let source = "Types: deb\nURIs: http://archive.example/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\nSigned-By: /usr/share/keyrings/archive.gpg\n";
        fs::write(etc.join("debian.sources"), source).unwrap();
        fs::write(dir.path().join("etc/os-release"), "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        Self { dir, stressor }
    }

    fn cache(&self) -> Cache {
        Cache::at(self.dir.path().join("cache"))
    }

    /// Puts a kernel into the cache.
    fn with_kernel(self) -> Self {
        let tree = Tree::new(&self.dir.path().join("tree"));
        image::adopt(&tree.image(), None, &self.cache().lock().unwrap()).unwrap();
        self
    }

    fn run(
        &self,
        runner: &FakeRunner,
        privilege: Privilege,
        yes: bool,
        prompt: &mut ScriptedPrompt,
    ) -> Result<(), Error> {
        let host = LocalHost { runner, cache: self.cache(), root: self.dir.path().to_path_buf(), privilege };
        let options = SetupOptions { yes, stressor: self.stressor.clone(), ..SetupOptions::default() };
        let outcome = run(&options, &host, prompt);
        assert!(!self.cache().path("setup").exists(), "the private directory must be removed");
        outcome
    }

    fn commands(&self, runner: &FakeRunner) -> Vec<String> {
        let root = self.dir.path().display().to_string();
        runner.commands(self.cache().root()).iter().map(|line| line.replace(&root, "")).collect()
    }

    /// Returns the commands that change the system, rather than just apt's private directory.
    fn system_commands(&self, runner: &FakeRunner) -> Vec<String> {
        let mut all = self.commands(runner);
        all.retain(|line| {
            !line.contains("-c CACHE/") && !line.contains("--version") && !line.contains("dpkg-deb")
        });
        all
    }
}

/// Returns a runner like Debian's, where `apt-get install -y` puts QEMU into `PATH`.
fn debian(simulated: &[(&str, i32, &str)]) -> FakeRunner {
    let runner = FakeRunner::default().program("apt-get").answer("update", 0, "");
    let runner = runner.answer("install -y", 0, "").installing(QEMU_PROGRAM).answer("--version", 0, QEMU);
    let runner = runner.answer("install -D", 0, "").answer("rm", 0, "");
    simulated.iter().fold(runner, |runner, (words, code, text)| runner.answer(words, *code, text))
}

#[test]
fn if_nothing_is_missing_nothing_is_asked_or_changed() {
    let fixture = Fixture::new().with_kernel();
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU);
    let mut prompt = ScriptedPrompt::default();
    fixture.run(&runner, Privilege::None, false, &mut prompt).unwrap();
    assert_eq!(fixture.commands(&runner), ["/usr/bin/qemu-system-x86_64 --version"]);
    assert_eq!(prompt.said[0], "Nothing to install or download.");
    assert!(prompt.said[1].contains(RELEASE), "{:?}", prompt.said);
}

#[test]
fn the_default_suite_is_used_if_its_qemu_is_new_enough() {
    let fixture = Fixture::new().with_kernel();
    let runner = debian(&[("-s", 0, PLAIN)]);
    let mut prompt = ScriptedPrompt::default();
    fixture.run(&runner, Privilege::Root, true, &mut prompt).unwrap();
    assert_eq!(
        fixture.system_commands(&runner),
        [
            "apt-get -q update",
            "apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends \
             --no-remove qemu-system-x86"
        ]
    );
    let said = prompt.said.join("\n");
    assert!(said.contains("On this system, as root:\n  run apt-get -q update"), "{said}");
    assert!(said.contains("installs qemu-system-x86 1:7.2+dfsg-7"), "{said}");
    assert!(!said.contains("backports"), "{said}");
}

#[test]
fn backports_are_used_if_the_default_suite_would_remove_a_package() {
    let fixture = Fixture::new().with_kernel();
    let runner = debian(&[("-s -t bookworm-backports", 0, NEWER), ("-s", 0, REMOVES)]);
    let mut prompt = ScriptedPrompt::default();
    fixture.run(&runner, Privilege::Root, true, &mut prompt).unwrap();
    let file = "/etc/apt/sources.list.d/testbed-backports.sources";
    assert_eq!(
        fixture.system_commands(&runner),
        [
            format!("install -D -m 0644 CACHE/setup/testbed-backports.sources {file}"),
            "apt-get -q update".to_owned(),
            "apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends \
             --no-remove -t bookworm-backports qemu-system-x86"
                .to_owned(),
        ]
    );
    let root = fixture.dir.path().display().to_string();
    let said = prompt.said.join("\n").replace(&root, "");
    assert!(
        said.contains(
            "  QEMU is not taken from the default suite: it would remove qemu-utils.\n  \
             write /etc/apt/sources.list.d/testbed-backports.sources, derived from \
             /etc/apt/sources.list.d/debian.sources:\n      \
             Types: deb\n      URIs: http://archive.example/debian\n      Suites: bookworm-backports\n      \
             Components: main\n      Signed-By: /usr/share/keyrings/archive.gpg\n  run apt-get -q update"
        ),
        "{said}"
    );
}

#[test]
fn backports_are_used_if_apt_cannot_install_from_the_default_suite() {
    let fixture = Fixture::new().with_kernel();
    let runner = debian(&[("-s -t", 0, NEWER), ("-s", 100, "")]);
    let mut prompt = ScriptedPrompt::default();
    fixture.run(&runner, Privilege::Root, true, &mut prompt).unwrap();
    assert!(prompt.said.join("\n").contains("the default suite: as the fake says"), "{:?}", prompt.said);
}

#[test]
fn if_every_suite_is_too_old_nothing_is_changed() {
    let fixture = Fixture::new().with_kernel();
    let old = "Inst qemu-system-x86 (1:5.2+dfsg-11 Debian:11 [amd64])\n";
    let runner = debian(&[("-s", 0, old)]);
    let error = fixture.run(&runner, Privilege::Root, true, &mut ScriptedPrompt::default()).unwrap_err();
    assert_eq!(fixture.system_commands(&runner), [""; 0]);
    let text = error.to_string();
    assert!(text.contains("the default suite: it has QEMU 1:5.2"), "{text}");
    assert!(text.contains("bookworm-backports: it has QEMU 1:5.2"), "{text}");
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn packages_that_contain_no_qemu_are_an_error() {
    let fixture = Fixture::new().with_kernel();
    let runner = FakeRunner::default()
        .program("apt-get")
        .answer("update", 0, "")
        .answer("install -y", 0, "")
        .answer("-s", 0, PLAIN);
    let error = fixture.run(&runner, Privilege::Root, true, &mut ScriptedPrompt::default()).unwrap_err();
    assert!(error.to_string().contains("the packages were installed"), "{error}");
}

#[test]
fn an_added_source_is_removed_if_the_installation_fails() {
    let fixture = Fixture::new().with_kernel();
    let runner = FakeRunner::default()
        .program("apt-get")
        .answer("install -y", 100, "")
        .answer("install -D", 0, "")
        .answer("update", 0, "")
        .answer("rm", 0, "")
        .answer("-s -t", 0, NEWER)
        .answer("-s", 0, REMOVES);
    let error = fixture.run(&runner, Privilege::Root, true, &mut ScriptedPrompt::default()).unwrap_err();
    assert!(matches!(error, Error::Command { code: Some(100), .. }), "{error}");
    let last = fixture.system_commands(&runner).pop().unwrap();
    assert_eq!(last, "rm -f /etc/apt/sources.list.d/testbed-backports.sources");
}

#[test]
fn an_unwritable_source_is_fatal_and_a_failed_update_is_not() {
    let fixture = Fixture::new().with_kernel();
    let runner_with = |write, update| {
        FakeRunner::default()
            .program("apt-get")
            .answer("-s -t", 0, NEWER)
            .answer("-s", 0, REMOVES)
            .answer("-c", 0, "")
            .answer("install -D", write, "")
            .answer("update", update, "")
            .answer("install -y", 0, "")
            .installing(QEMU_PROGRAM)
            .answer("--version", 0, QEMU)
            .answer("rm", 0, "")
    };
    let runner = runner_with(1, 0);
    fixture.run(&runner, Privilege::Root, true, &mut ScriptedPrompt::default()).unwrap_err();
    let commands = fixture.system_commands(&runner);
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands[1].starts_with("rm -f"), "{commands:?}");
    let runner = runner_with(0, 100);
    fixture.run(&runner, Privilege::Root, true, &mut ScriptedPrompt::default()).unwrap();
    assert_eq!(fixture.system_commands(&runner).len(), 3);
}

#[test]
fn an_ordinary_user_installs_with_sudo() {
    let fixture = Fixture::new().with_kernel();
    let runner = debian(&[("-s", 0, PLAIN)]);
    let mut prompt = ScriptedPrompt { answer: Some(true), ..ScriptedPrompt::default() };
    fixture.run(&runner, Privilege::Sudo, true, &mut prompt).unwrap();
    assert!(prompt.said.iter().any(|line| line == "On this system, as root, through sudo:"));
    let commands = fixture.system_commands(&runner);
    assert!(commands.iter().all(|line| line.starts_with("sudo apt-get")), "{commands:?}");
    // Without a terminal, sudo must not wait for a password.
    let runner = debian(&[("-s", 0, PLAIN)]);
    fixture.run(&runner, Privilege::Sudo, true, &mut ScriptedPrompt::default()).unwrap();
    let commands = fixture.system_commands(&runner);
    assert!(commands.iter().all(|line| line.starts_with("sudo -n apt-get")), "{commands:?}");
}

#[test]
fn without_root_or_sudo_the_commands_are_printed() {
    let fixture = Fixture::new().with_kernel();
    let runner = debian(&[("-s -t", 0, NEWER), ("-s", 0, REMOVES)]);
    let error = fixture.run(&runner, Privilege::None, true, &mut ScriptedPrompt::default()).unwrap_err();
    assert_eq!(fixture.system_commands(&runner), [""; 0]);
    let text = error.to_string();
    // The text must be ready to paste: neither the here-document nor its end may be indented.
    assert!(text.contains("testbed-backports.sources <<'END'\n#"), "{text}");
    assert!(text.contains("\nSuites: bookworm-backports\n"), "{text}");
    assert!(text.contains("\nEND\napt-get -q update\n"), "{text}");
    assert!(text.contains("-t bookworm-backports qemu-system-x86"), "{text}");
}

#[test]
fn without_consent_nothing_is_changed() {
    let fixture = Fixture::new().with_kernel();
    for (answer, expected) in [(None, "--yes"), (Some(false), "nothing was changed")] {
        let runner = debian(&[("-s", 0, PLAIN)]);
        let mut prompt = ScriptedPrompt { answer, ..ScriptedPrompt::default() };
        let error = fixture.run(&runner, Privilege::Root, false, &mut prompt).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fixture.system_commands(&runner), [""; 0]);
        let question = prompt.said.iter().position(|line| line == "Proceed?").unwrap();
        assert!(
            prompt.said[..question].iter().any(|line| line.contains("install -y")),
            "the commands are shown before the question"
        );
    }
}

#[test]
fn the_command_for_other_package_managers_is_printed() {
    for (program, command) in [
        ("dnf", "sudo dnf install qemu-system-x86-core"),
        ("zypper", "sudo zypper install qemu-x86"),
        ("pacman", "sudo pacman -S qemu-system-x86"),
    ] {
        let fixture = Fixture::new().with_kernel();
        let runner = FakeRunner::default().program(program);
        let error = fixture.run(&runner, Privilege::Sudo, true, &mut ScriptedPrompt::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("\n    {command}\n")), "{error}");
        assert_eq!(fixture.commands(&runner), [""; 0]);
    }
    let none = FakeRunner::default();
    let error = Fixture::new()
        .with_kernel()
        .run(&none, Privilege::Root, true, &mut ScriptedPrompt::default())
        .unwrap_err();
    assert!(matches!(error, Error::NoManager { .. }), "{error}");
}

#[test]
fn a_kernel_is_downloaded_without_being_installed() {
    let fixture = Fixture::new();
    let runner = FakeRunner::default()
        .program("apt-get")
        .program(QEMU_PROGRAM)
        .answer("--version", 0, QEMU)
        .answer("update", 0, "")
        .answer("show linux-image-cloud-amd64", 0, "Depends: linux-image-6.1.0-test-amd64 (= 6.1.1-1)\n")
        .answer("show linux-image-6.1.0-test-amd64", 0, "Version: 6.1.1-1\nSize: 26713492\n")
        .answer("download", 0, "")
        .with_effect(|command| {
            let directory = command.directory.as_ref().expect("a directory to download to");
            fs::write(directory.join("linux-image.deb"), "a package").unwrap();
        })
        .answer("dpkg-deb", 0, "")
        .with_effect(|command| {
            Tree::new(Path::new(command.arguments.last().unwrap()));
        });
    let mut prompt = ScriptedPrompt { answer: Some(true), ..ScriptedPrompt::default() };
    fixture.run(&runner, Privilege::None, false, &mut prompt).unwrap();
    assert_eq!(fixture.system_commands(&runner), [""; 0]);
    let said = prompt.said.join("\n");
    assert!(said.contains("download linux-image-6.1.0-test-amd64 6.1.1-1 (26.7 MB)"), "{said}");
    let found = image::find_kernel(&KernelChoice::Cached, &fixture.cache()).unwrap();
    assert_eq!(found.release, RELEASE);
    // A kernel in the cache is not downloaded again.
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU);
    fixture.run(&runner, Privilege::None, false, &mut ScriptedPrompt::default()).unwrap();
}

#[test]
fn a_given_kernel_is_copied_into_the_cache() {
    let fixture = Fixture::new();
    let tree = Tree::new(&fixture.dir.path().join("tree"));
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU);
    let host = LocalHost {
        runner: &runner,
        cache: fixture.cache(),
        root: fixture.dir.path().to_path_buf(),
        privilege: Privilege::None,
    };
    let kernel = KernelRequest::Given { image: tree.image(), modules: Some(tree.modules()) };
    let stressor = fixture.stressor.clone();
    let options = SetupOptions { yes: true, kernel, stressor, nfs_driver: false };
    run(&options, &host, &mut ScriptedPrompt::default()).unwrap();
    fs::remove_dir_all(&tree.root).unwrap();
    assert_eq!(image::find_kernel(&KernelChoice::Auto, &fixture.cache()).unwrap().release, RELEASE);
}

#[test]
fn without_a_stressor_nothing_is_changed() {
    let fixture = Fixture::new();
    fs::remove_file(&fixture.stressor).unwrap();
    let runner = FakeRunner::default();
    let error = fixture.run(&runner, Privilege::Root, true, &mut ScriptedPrompt::default()).unwrap_err();
    assert!(error.to_string().contains("stressor"), "{error}");
    assert!(!fixture.cache().root().exists());
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let fixture = Fixture::new();
    let runner = debian(&[
        ("-s", 0, PLAIN),
        ("show linux-image-cloud-amd64", 0, "Depends: linux-image-6.1.0-test-amd64 (= 6.1.1-1)\n"),
        ("show linux-image-6.1.0-test-amd64", 0, "Version: 6.1.1-1\nSize: 26713492\n"),
    ]);
    let host = LocalHost {
        runner: &runner,
        cache: fixture.cache(),
        root: fixture.dir.path().to_path_buf(),
        privilege: Privilege::Root,
    };
    // This takes precedence over --yes.
    let stressor = fixture.stressor.clone();
    let options = SetupOptions { yes: true, stressor, ..SetupOptions::default() };
    let mut prompt = ScriptedPrompt::default();
    dry_run(&options, &host, &mut prompt).unwrap();
    let said = prompt.said.join("\n");
    assert!(said.contains("  run apt-get -q update"), "{said}");
    assert!(said.contains("installs qemu-system-x86 1:7.2+dfsg-7"), "{said}");
    assert!(said.contains("download linux-image-6.1.0-test-amd64 6.1.1-1 (26.7 MB)"), "{said}");
    assert!(said.ends_with("\nNothing was changed: this was a dry run."), "{said}");
    assert!(!said.contains("Proceed?"), "{said}");
    assert!(!fixture.cache().root().exists(), "not even the cache is written to");
    let changing = |line: &&String| !line.contains("-c /") && !line.contains("--version");
    assert_eq!(fixture.commands(&runner).iter().filter(changing).count(), 0);
}

/// QEMU's answers to the question whether it has its block driver `nfs`.
const MISSING: &str = "qemu-system-x86_64: -blockdev driver=nfs: Unknown driver 'nfs'\n";
const PRESENT: &str = "qemu-system-x86_64: -blockdev driver=nfs: Invalid URL specified\n";

/// Runs setup for shared storage, with QEMU installed, and returns the commands that change the system.
fn run_for_shared_storage(runner: &FakeRunner) -> Result<Vec<String>, Error> {
    let fixture = Fixture::new().with_kernel();
    let host = LocalHost {
        runner,
        cache: fixture.cache(),
        root: fixture.dir.path().to_path_buf(),
        privilege: Privilege::Root,
    };
    let stressor = fixture.stressor.clone();
    let options = SetupOptions { yes: true, stressor, nfs_driver: true, ..SetupOptions::default() };
    run(&options, &host, &mut ScriptedPrompt::default())?;
    let mut commands = fixture.system_commands(runner);
    commands.retain(|line| !line.contains("-blockdev") && !line.starts_with("dpkg-query"));
    Ok(commands)
}

#[test]
fn the_nfs_driver_is_installed_in_the_version_of_qemu_and_only_if_it_is_missing() {
    let version = "1:10.0.2+ds-2~bpo12+1";
    let simulated =
        |version: &str| format!("Inst libnfs13 (4.0.0-1 Debian:12)\nInst qemu-block-extra ({version} B)\n");
    let installed = || {
        FakeRunner::default()
            .program("apt-get")
            .program(QEMU_PROGRAM)
            .answer("--version", 0, QEMU)
            .answer("update", 0, "")
            .answer("dpkg-query", 0, version)
    };
    let answers_later = std::cell::Cell::new(false);
    let runner = installed()
        .answer("-s", 0, &simulated(version))
        .answer("install -y", 0, "")
        .saying(move || if answers_later.replace(true) { PRESENT } else { MISSING });
    assert_eq!(
        run_for_shared_storage(&runner).unwrap(),
        [
            "apt-get -q update".to_owned(),
            format!(
                "apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y \
                 --no-install-recommends --no-remove 'qemu-block-extra={version}'"
            )
        ]
    );
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU).saying(|| PRESENT);
    assert_eq!(run_for_shared_storage(&runner).unwrap(), [""; 0]);

    // A driver of another version does not work.
    let runner = installed().answer("-s", 0, &simulated("1:7.2")).saying(|| MISSING);
    let error = run_for_shared_storage(&runner).unwrap_err().to_string();
    assert!(error.contains("bookworm-backports: it has qemu-block-extra 1:7.2"), "{error}");
    let runner =
        installed().answer("-s", 0, &simulated(version)).answer("install -y", 0, "").saying(|| MISSING);
    let error = run_for_shared_storage(&runner).unwrap_err().to_string();
    assert!(error.contains("was installed, but QEMU says: Unknown driver 'nfs'"), "{error}");
}

#[test]
fn the_nfs_driver_is_installed_together_with_qemu() {
    let both = format!("{NEWER}Inst qemu-block-extra (1:10.0.2+ds-2 Backports [amd64])\n");
    let runner = debian(&[("-s -t", 0, &both), ("-s", 0, REMOVES)]).saying(|| PRESENT);
    let commands = run_for_shared_storage(&runner).unwrap();
    assert!(commands[2].ends_with("-t bookworm-backports qemu-system-x86 qemu-block-extra"), "{commands:?}");
    let runner = FakeRunner::default().program("dnf");
    let error = run_for_shared_storage(&runner).unwrap_err().to_string();
    assert!(error.contains("\n    dnf install qemu-system-x86-core qemu-block-nfs\n"), "{error}");
    let runner = FakeRunner::default()
        .program("pacman")
        .program(QEMU_PROGRAM)
        .answer("--version", 0, QEMU)
        .saying(|| MISSING);
    let error = run_for_shared_storage(&runner).unwrap_err().to_string();
    assert!(error.contains("Install QEMU's nfs driver with:\n\n    pacman -S qemu-block-nfs\n"), "{error}");
}
