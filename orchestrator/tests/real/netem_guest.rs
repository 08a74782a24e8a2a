//! Runs the tests of `netem` and `stressor` that need kernel support in a guest with the distribution's
//! kernel. That kernel has `sch_netem` as a module and the memory controller of cgroup v2, which the host
//! that runs the tests may lack; and its settings are nobody else's.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use testbed::{
    driver::qemu::machine::QEMU,
    image::{self, Cache, GuestImage, ImageContents, KernelChoice},
    setup::{self, KernelRequest, LocalHost, Prompt, Runner, SetupOptions, SystemRunner},
};

/// The test programs of `netem`, and then of `stressor`, in the order in which the guest runs them.
const TESTS: [&str; 4] = ["sch_netem", "kernel", "cli", "limits"];

/// The test program in which no test may be skipped. In the others, those that need `tc`, a shell or other
/// programs are skipped, because the guest has none.
const NEVER_SKIPPED: &str = "sch_netem";

/// The time limit for the guest. It took less than a minute on two idle cores.
const GUEST_LIMIT: Duration = Duration::from_secs(600);

/// A user who agrees to everything.
struct Agreeing;

impl Prompt for Agreeing {
    fn say(&mut self, line: &str) {
        println!("{line}");
    }

    fn ask(&mut self, _: &str) -> Option<bool> {
        Some(true)
    }

    fn interactive(&self) -> bool {
        false
    }
}

/// Builds the guest with the kernel in the user's cache, if that has the link modules, else with the
/// distribution's kernel, which is downloaded into a cache below `target/tmp`. The error is the reason to
/// skip the test.
fn image(programs: &Path) -> Result<GuestImage, String> {
    let [init, netem, stressor] = ["run-programs", "netem", "stressor"].map(|name| programs.join(name));
    let tests = TESTS.map(|name| programs.join(name));
    let inside: Vec<&Path> = [&netem, &stressor].into_iter().chain(&tests).map(PathBuf::as_path).collect();
    let contents = ImageContents { init: &init, modules: &image::LINK_MODULES, programs: &inside };
    let user = Cache::user().map_err(|error| error.to_string())?;
    let own = Cache::at(Path::new(env!("CARGO_TARGET_TMPDIR")).join("netem-guest"));
    for cache in [&user, &own] {
        match image::assemble(&KernelChoice::Cached, &contents, cache) {
            Ok(image) => return Ok(image),
            Err(error @ image::Error::Stressor { .. }) => panic!("{error}"),
            Err(error) => println!("{error}"),
        }
    }
    let runner = SystemRunner;
    if runner.find("apt-get").is_none() {
        return Err("no kernel with sch_netem is in the cache, and there is no apt to fetch one".to_owned());
    }
    let stressor = PathBuf::from(std::env::var_os("TESTBED_DIST").unwrap()).join("stressor");
    let options = SetupOptions { yes: true, kernel: KernelRequest::Distribution, stressor };
    let host = LocalHost::detect(&runner, own.clone());
    setup::run(&options, &host, &mut Agreeing).map_err(|error| error.to_string())?;
    image::assemble(&KernelChoice::Cached, &contents, &own).map_err(|error| error.to_string())
}

/// A QEMU process, which is killed when this is dropped.
struct QemuProcess(Child);

impl Drop for QemuProcess {
    fn drop(&mut self) {
        // An error means that QEMU has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the guest and waits until it switches itself off. Returns the text of its console.
fn console(image: &GuestImage) -> String {
    let dir = tempfile::tempdir().unwrap();
    let initramfs = dir.path().join("initramfs");
    std::fs::write(&initramfs, &image.initramfs).unwrap();
    let options = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable \
         NETEM_PROGRAM=/programs/netem STRESSOR_PROGRAM=/programs/stressor RUST_TEST_NOCAPTURE=1 \
         RUST_TEST_THREADS=1 -- {}",
        TESTS.join(" ")
    );
    let mut command = Command::new(QEMU);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        // A CPU with RDRAND, from which the kernel gets its first random numbers.
        .args(["-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "512M"])
        .arg("-kernel")
        .arg(&image.kernel.image)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", &options])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut qemu = QemuProcess(command.spawn().unwrap());
    let mut output = qemu.0.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            let _ = sender.send(buffer[..count].to_vec());
        }
    });
    let mut shown = Vec::new();
    let deadline = std::time::Instant::now() + GUEST_LIMIT;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
            Ok(bytes) => shown.extend(bytes),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("the guest did not end within {GUEST_LIMIT:?}:\n{}", String::from_utf8_lossy(&shown))
            }
        }
    }
    assert!(qemu.0.wait().unwrap().success());
    String::from_utf8_lossy(&shown).replace('\r', "")
}

/// Returns what is wrong with the output of the tests; an empty list if they all passed.
fn complaints(console: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in TESTS {
        let part = console.split_once(&format!("run-programs: {name} starts\n"));
        let part = part.and_then(|(_, rest)| rest.split_once(&format!("run-programs: {name} ended: ")));
        let Some((printed, rest)) = part else {
            found.push(format!("{name} did not run to its end"));
            continue;
        };
        let status = rest.lines().next().unwrap_or_default();
        if status != "exit status: 0" {
            found.push(format!("{name} ended with {status}"));
        }
        let passed = printed.lines().find_map(|line| {
            let (passed, rest) = line.strip_prefix("test result: ok. ")?.split_once(" passed; ")?;
            rest.starts_with("0 failed; 0 ignored; 0 measured; 0 filtered out").then_some(passed)
        });
        if passed.is_none_or(|count| count == "0") {
            found.push(format!("not every test of {name} passed"));
        }
        if name == NEVER_SKIPPED && printed.contains("skipped:") {
            found.push(format!("a test of {name} was skipped"));
        }
    }
    found
}

#[test]
#[ignore = "boots the distribution's kernel in QEMU: cargo xtask test"]
fn the_tests_of_netem_pass_in_a_guest_with_sch_netem() {
    let Some(programs) = std::env::var_os("TESTBED_GUEST_TESTS") else {
        println!("skipped: TESTBED_GUEST_TESTS is not set: run `cargo xtask test`");
        return;
    };
    if let Err(error) = testbed::host::qemu_version() {
        println!("skipped: there is no QEMU: {error}");
        return;
    }
    let image = match image(Path::new(&programs)) {
        Ok(image) => image,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let console = console(&image);
    let complaints = complaints(&console);
    assert!(complaints.is_empty(), "kernel {}: {complaints:#?}\n{console}", image.kernel.release);
    println!("{console}");
}

/// Each relevant change to the output of a successful guest is found.
#[test]
fn tests_that_did_not_run_or_pass_are_found() {
    let part = |name: &str| {
        format!(
            "run-programs: {name} starts\n\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
             finished in 1.00s\n\n\
             run-programs: {name} ended: exit status: 0\n"
        )
    };
    let well = TESTS.map(part).concat();
    assert!(complaints(&well).is_empty(), "{:?}", complaints(&well));
    for (what, instead) in [
        ("run-programs: kernel starts\n", ""),
        ("exit status: 0", "exit status: 101"),
        ("exit status: 0", "signal: 9 (SIGKILL)"),
        ("2 passed; 0 failed", "1 passed; 1 failed"),
        ("2 passed; 0 failed; 0 ignored", "1 passed; 0 failed; 1 ignored"),
        ("2 passed", "0 passed"),
        ("test a ... ok", "test a ... skipped: this kernel has no sch_netem\nok"),
    ] {
        let changed = well.replacen(what, instead, 1);
        assert_ne!(changed, well);
        assert_eq!(complaints(&changed).len(), 1, "{what} -> {instead}: {:?}", complaints(&changed));
    }
    let cut = &well[..well.len() / 2];
    assert!(complaints(cut).iter().any(|complaint| complaint.starts_with("cli")), "{:?}", complaints(cut));
}
