//! A guest with the distribution's kernel that runs test programs of `netem` and `stressor`. That kernel has
//! `sch_netem` as a module, which the kernel of the host may lack. The tests of this crate and its benchmark
//! `instruments` boot it.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use testbed::{
    driver::qemu::machine::QEMU,
    image::{self, Cache, GuestImage, ImageContents, KernelChoice},
    setup::{self, KernelRequest, LocalHost, Prompt, Runner, SetupOptions, SystemRunner},
};

/// A user who agrees to everything.
struct Agreeing;

impl Prompt for Agreeing {
    fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }

    fn ask(&mut self, _: &str) -> Option<bool> {
        Some(true)
    }

    fn interactive(&self) -> bool {
        false
    }
}

/// Builds the guest with these programs and with the kernel in the user's cache, if that has the link
/// modules, otherwise with the distribution's kernel, which is downloaded into a cache below `target/tmp`.
/// The error is the reason why that is not possible here.
pub(crate) fn image(programs: &Path, tests: &[&str]) -> Result<GuestImage, String> {
    let [init, netem, stressor] = ["run-programs", "netem", "stressor"].map(|name| programs.join(name));
    let tests: Vec<PathBuf> = tests.iter().map(|name| programs.join(name)).collect();
    let inside: Vec<&Path> = [&netem, &stressor].into_iter().chain(&tests).map(PathBuf::as_path).collect();
    let contents = ImageContents { init: &init, modules: &image::LINK_MODULES, programs: &inside };
    let user = Cache::user().map_err(|error| error.to_string())?;
    let own = Cache::at(Path::new(env!("CARGO_TARGET_TMPDIR")).join("netem-guest"));
    for cache in [&user, &own] {
        match image::assemble(&KernelChoice::Cached, &contents, cache) {
            Ok(image) => return Ok(image),
            Err(error @ image::Error::Stressor { .. }) => panic!("{error}"),
            Err(error) => eprintln!("{error}"),
        }
    }
    let runner = SystemRunner;
    if runner.find("apt-get").is_none() {
        return Err("no kernel with sch_netem is in the cache, and there is no apt to fetch one".to_owned());
    }
    let stressor = PathBuf::from(std::env::var_os("TESTBED_DIST").unwrap()).join("stressor");
    let kernel = KernelRequest::Distribution;
    let options = SetupOptions { yes: true, kernel, stressor, ..SetupOptions::default() };
    let host = LocalHost::detect(&runner, own.clone());
    setup::run(&options, &host, &mut Agreeing).map_err(|error| error.to_string())?;
    image::assemble(&KernelChoice::Cached, &contents, &own).map_err(|error| error.to_string())
}

/// A QEMU process that is killed when this value is dropped.
struct QemuProcess(Child);

impl Drop for QemuProcess {
    fn drop(&mut self) {
        // An error means that QEMU has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the guest, which runs the tests with `environment` (`NAME=value`), and waits until it powers off.
/// Returns the text of its console. `cpus` are QEMU's options for its CPUs.
///
/// # Panics
///
/// If the guest does not end within `limit`.
pub(crate) fn console(
    image: &GuestImage,
    cpus: &[&str],
    tests: &[&str],
    environment: &str,
    limit: Duration,
) -> String {
    let dir = tempfile::tempdir().unwrap();
    let initramfs = dir.path().join("initramfs");
    std::fs::write(&initramfs, &image.initramfs).unwrap();
    let options = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check tsc=reliable \
         NETEM_PROGRAM=/programs/netem STRESSOR_PROGRAM=/programs/stressor RUST_TEST_NOCAPTURE=1 \
         RUST_TEST_THREADS=1 {environment} -- {}",
        tests.join(" ")
    );
    let mut command = Command::new(QEMU);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        // A CPU with RDRAND, from which the kernel gets its first random numbers.
        .args(["-machine", "pc,accel=tcg", "-cpu", "max", "-m", "512M"])
        .args(cpus)
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
    let deadline = Instant::now() + limit;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => shown.extend(bytes),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("the guest did not end within {limit:?}:\n{}", String::from_utf8_lossy(&shown))
            }
        }
    }
    assert!(qemu.0.wait().unwrap().success());
    String::from_utf8_lossy(&shown).replace('\r', "")
}
