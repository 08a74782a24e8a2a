//! Set-up's decisions, on machines that consist of answers.

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

/// What is said and asked, with the answers given beforehand.
#[derive(Default)]
struct Script {
    said: Vec<String>,
    answer: Option<bool>,
}

impl Dialogue for Script {
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

struct Setting {
    dir: tempfile::TempDir,
    stressor: PathBuf,
}

impl Setting {
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

    /// The cache has a kernel.
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
        script: &mut Script,
    ) -> Result<(), Error> {
        let machine = Machine { runner, cache: self.cache(), root: self.dir.path().to_path_buf(), privilege };
        let options = Options { yes, kernel: KernelWish::Auto, stressor: self.stressor.clone() };
        let outcome = run(&options, &machine, script);
        assert!(!self.cache().path("setup").exists(), "the private directory is gone");
        outcome
    }

    fn seen(&self, runner: &FakeRunner) -> Vec<String> {
        let root = self.dir.path().display().to_string();
        runner.seen(self.cache().root()).iter().map(|line| line.replace(&root, "")).collect()
    }

    /// The commands that were run on the system itself, not on a private state.
    fn on_the_system(&self, runner: &FakeRunner) -> Vec<String> {
        let mut all = self.seen(runner);
        all.retain(|line| {
            !line.contains("-c CACHE/") && !line.contains("--version") && !line.contains("dpkg-deb")
        });
        all
    }
}

/// A Debian without QEMU until `apt-get install -y` has run.
fn debian(simulated: &[(&str, i32, &str)]) -> FakeRunner {
    let runner = FakeRunner::default().program("apt-get").answer("update", 0, "");
    let runner = runner.answer("install -y", 0, "").installing(QEMU_PROGRAM).answer("--version", 0, QEMU);
    let runner = runner.answer("install -D", 0, "").answer("rm", 0, "");
    simulated.iter().fold(runner, |runner, (words, code, text)| runner.answer(words, *code, text))
}

#[test]
fn where_nothing_is_missing_nothing_is_asked_or_changed() {
    let setting = Setting::new().with_kernel();
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU);
    let mut script = Script::default();
    setting.run(&runner, Privilege::None, false, &mut script).unwrap();
    assert_eq!(setting.seen(&runner), ["/usr/bin/qemu-system-x86_64 --version"]);
    assert_eq!(script.said[0], "Nothing has to be installed or downloaded.");
    assert!(script.said[1].contains(RELEASE), "{:?}", script.said);
}

#[test]
fn the_usual_suite_is_taken_where_it_serves() {
    let setting = Setting::new().with_kernel();
    let runner = debian(&[("-s", 0, PLAIN)]);
    let mut script = Script::default();
    setting.run(&runner, Privilege::Root, true, &mut script).unwrap();
    assert_eq!(
        setting.on_the_system(&runner),
        [
            "apt-get -q update",
            "apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends --no-remove qemu-system-x86"
        ]
    );
    let said = script.said.join("\n");
    assert!(said.contains("On this system, as root:\n  run apt-get -q update"), "{said}");
    assert!(said.contains("installs qemu-system-x86 1:7.2+dfsg-7"), "{said}");
    assert!(!said.contains("backports"), "{said}");
}

#[test]
fn where_it_would_remove_something_backports_are_taken() {
    let setting = Setting::new().with_kernel();
    let runner = debian(&[("-s -t bookworm-backports", 0, NEWER), ("-s", 0, REMOVES)]);
    let mut script = Script::default();
    setting.run(&runner, Privilege::Root, true, &mut script).unwrap();
    let file = "/etc/apt/sources.list.d/testbed-backports.sources";
    assert_eq!(
        setting.on_the_system(&runner),
        [
            format!("install -D -m 0644 CACHE/setup/testbed-backports.sources {file}"),
            "apt-get -q update".to_owned(),
            "apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends --no-remove \
             -t bookworm-backports qemu-system-x86"
                .to_owned(),
        ]
    );
    let root = setting.dir.path().display().to_string();
    let said = script.said.join("\n").replace(&root, "");
    assert!(
        said.contains(
            "  QEMU does not come from the usual suite: it would remove qemu-utils.\n  \
             write /etc/apt/sources.list.d/testbed-backports.sources, derived from \
             /etc/apt/sources.list.d/debian.sources:\n      \
             Types: deb\n      URIs: http://archive.example/debian\n      Suites: bookworm-backports\n      \
             Components: main\n      Signed-By: /usr/share/keyrings/archive.gpg\n  run apt-get -q update"
        ),
        "{said}"
    );
}

#[test]
fn an_apt_that_sees_no_way_leads_to_backports_too() {
    let setting = Setting::new().with_kernel();
    let runner = debian(&[("-s -t", 0, NEWER), ("-s", 100, "")]);
    let mut script = Script::default();
    setting.run(&runner, Privilege::Root, true, &mut script).unwrap();
    assert!(script.said.join("\n").contains("the usual suite: as the fake says"), "{:?}", script.said);
}

#[test]
fn where_no_suite_serves_nothing_is_changed() {
    let setting = Setting::new().with_kernel();
    let old = "Inst qemu-system-x86 (1:5.2+dfsg-11 Debian:11 [amd64])\n";
    let runner = debian(&[("-s", 0, old)]);
    let error = setting.run(&runner, Privilege::Root, true, &mut Script::default()).unwrap_err();
    assert_eq!(setting.on_the_system(&runner), [""; 0]);
    let text = error.to_string();
    assert!(text.contains("the usual suite: it has QEMU 1:5.2"), "{text}");
    assert!(text.contains("bookworm-backports: it has QEMU 1:5.2"), "{text}");
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn packages_that_bring_no_qemu_are_an_error() {
    let setting = Setting::new().with_kernel();
    let runner = FakeRunner::default()
        .program("apt-get")
        .answer("update", 0, "")
        .answer("install -y", 0, "")
        .answer("-s", 0, PLAIN);
    let error = setting.run(&runner, Privilege::Root, true, &mut Script::default()).unwrap_err();
    assert!(error.to_string().contains("the packages were installed"), "{error}");
}

#[test]
fn a_source_that_did_not_help_is_taken_back() {
    let setting = Setting::new().with_kernel();
    let runner = FakeRunner::default()
        .program("apt-get")
        .answer("install -y", 100, "")
        .answer("install -D", 0, "")
        .answer("update", 0, "")
        .answer("rm", 0, "")
        .answer("-s -t", 0, NEWER)
        .answer("-s", 0, REMOVES);
    let error = setting.run(&runner, Privilege::Root, true, &mut Script::default()).unwrap_err();
    assert!(matches!(error, Error::Command { code: Some(100), .. }), "{error}");
    let last = setting.on_the_system(&runner).pop().unwrap();
    assert_eq!(last, "rm -f /etc/apt/sources.list.d/testbed-backports.sources");
}

#[test]
fn a_source_that_cannot_be_written_ends_it_and_a_failed_update_does_not() {
    let setting = Setting::new().with_kernel();
    let machine = |write, update| {
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
    let runner = machine(1, 0);
    setting.run(&runner, Privilege::Root, true, &mut Script::default()).unwrap_err();
    let commands = setting.on_the_system(&runner);
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands[1].starts_with("rm -f"), "{commands:?}");
    let runner = machine(0, 100);
    setting.run(&runner, Privilege::Root, true, &mut Script::default()).unwrap();
    assert_eq!(setting.on_the_system(&runner).len(), 3);
}

#[test]
fn an_ordinary_user_goes_through_sudo() {
    let setting = Setting::new().with_kernel();
    let runner = debian(&[("-s", 0, PLAIN)]);
    let mut script = Script { answer: Some(true), ..Script::default() };
    setting.run(&runner, Privilege::Sudo, true, &mut script).unwrap();
    assert!(script.said.iter().any(|line| line == "On this system, as root, through sudo:"));
    let commands = setting.on_the_system(&runner);
    assert!(commands.iter().all(|line| line.starts_with("sudo apt-get")), "{commands:?}");
    // With nobody at a terminal, sudo must not wait for a password.
    let runner = debian(&[("-s", 0, PLAIN)]);
    setting.run(&runner, Privilege::Sudo, true, &mut Script::default()).unwrap();
    let commands = setting.on_the_system(&runner);
    assert!(commands.iter().all(|line| line.starts_with("sudo -n apt-get")), "{commands:?}");
}

#[test]
fn without_root_or_sudo_the_commands_are_printed() {
    let setting = Setting::new().with_kernel();
    let runner = debian(&[("-s -t", 0, NEWER), ("-s", 0, REMOVES)]);
    let error = setting.run(&runner, Privilege::None, true, &mut Script::default()).unwrap_err();
    assert_eq!(setting.on_the_system(&runner), [""; 0]);
    let text = error.to_string();
    // As it stands it can be pasted: neither the paragraph nor its end may be indented.
    assert!(text.contains("testbed-backports.sources <<'END'\n#"), "{text}");
    assert!(text.contains("\nSuites: bookworm-backports\n"), "{text}");
    assert!(text.contains("\nEND\napt-get -q update\n"), "{text}");
    assert!(text.contains("-t bookworm-backports qemu-system-x86"), "{text}");
}

#[test]
fn nobody_to_ask_and_no_are_two_ends_without_a_change() {
    let setting = Setting::new().with_kernel();
    for (answer, expected) in [(None, "--yes"), (Some(false), "nothing was changed")] {
        let runner = debian(&[("-s", 0, PLAIN)]);
        let mut script = Script { answer, ..Script::default() };
        let error = setting.run(&runner, Privilege::Root, false, &mut script).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(setting.on_the_system(&runner), [""; 0]);
        let question = script.said.iter().position(|line| line == "Do this?").unwrap();
        assert!(script.said[..question].iter().any(|line| line.contains("install -y")), "said before asked");
    }
}

#[test]
fn other_package_managers_get_the_command_printed() {
    for (program, command) in [
        ("dnf", "sudo dnf install qemu-system-x86-core"),
        ("zypper", "sudo zypper install qemu-x86"),
        ("pacman", "sudo pacman -S qemu-system-x86"),
    ] {
        let setting = Setting::new().with_kernel();
        let runner = FakeRunner::default().program(program);
        let error = setting.run(&runner, Privilege::Sudo, true, &mut Script::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("\n    {command}\n")), "{error}");
        assert_eq!(setting.seen(&runner), [""; 0]);
    }
    let none = FakeRunner::default();
    let error =
        Setting::new().with_kernel().run(&none, Privilege::Root, true, &mut Script::default()).unwrap_err();
    assert!(matches!(error, Error::NoManager { .. }), "{error}");
}

#[test]
fn a_kernel_is_fetched_without_being_installed() {
    let setting = Setting::new();
    let runner = FakeRunner::default()
        .program("apt-get")
        .program(QEMU_PROGRAM)
        .answer("--version", 0, QEMU)
        .answer("update", 0, "")
        .answer("show linux-image-cloud-amd64", 0, "Depends: linux-image-6.1.0-test-amd64 (= 6.1.1-1)\n")
        .answer("show linux-image-6.1.0-test-amd64", 0, "Version: 6.1.1-1\nSize: 26713492\n")
        .answer("download", 0, "")
        .doing(|command| {
            let directory = command.directory.as_ref().expect("a directory to download to");
            fs::write(directory.join("linux-image.deb"), "a package").unwrap();
        })
        .answer("dpkg-deb", 0, "")
        .doing(|command| {
            Tree::new(Path::new(command.arguments.last().unwrap()));
        });
    let mut script = Script { answer: Some(true), ..Script::default() };
    setting.run(&runner, Privilege::None, false, &mut script).unwrap();
    assert_eq!(setting.on_the_system(&runner), [""; 0]);
    let said = script.said.join("\n");
    assert!(said.contains("download linux-image-6.1.0-test-amd64 6.1.1-1 (27 MB)"), "{said}");
    let found = image::find_kernel(&KernelChoice::Cached, &setting.cache()).unwrap();
    assert_eq!(found.release, RELEASE);
    // Once there, it is not fetched again.
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU);
    setting.run(&runner, Privilege::None, false, &mut Script::default()).unwrap();
}

#[test]
fn a_given_kernel_is_kept_for_later_runs() {
    let setting = Setting::new();
    let tree = Tree::new(&setting.dir.path().join("tree"));
    let runner = FakeRunner::default().program(QEMU_PROGRAM).answer("--version", 0, QEMU);
    let machine = Machine {
        runner: &runner,
        cache: setting.cache(),
        root: setting.dir.path().to_path_buf(),
        privilege: Privilege::None,
    };
    let kernel = KernelWish::Given { image: tree.image(), modules: Some(tree.modules()) };
    let options = Options { yes: true, kernel, stressor: setting.stressor.clone() };
    run(&options, &machine, &mut Script::default()).unwrap();
    fs::remove_dir_all(&tree.root).unwrap();
    assert_eq!(image::find_kernel(&KernelChoice::Auto, &setting.cache()).unwrap().release, RELEASE);
}

#[test]
fn without_a_stressor_nothing_is_begun() {
    let setting = Setting::new();
    fs::remove_file(&setting.stressor).unwrap();
    let runner = FakeRunner::default();
    let error = setting.run(&runner, Privilege::Root, true, &mut Script::default()).unwrap_err();
    assert!(error.to_string().contains("stressor"), "{error}");
    assert!(!setting.cache().root().exists());
}
