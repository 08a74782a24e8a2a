//! `testbed setup` with the real apt: it downloads the distribution's kernel.

use crate::common::turn::Turn;
use std::path::{Path, PathBuf};
use testbed::{
    image::{self, Cache, KernelChoice, KernelSource},
    setup::{self, KernelRequest, LocalHost, Prompt, Qemu, Runner, SetupOptions, SystemRunner},
};

/// A user who agrees to everything. Records the lines printed.
#[derive(Default)]
struct Agreeing(Vec<String>);

impl Prompt for Agreeing {
    fn say(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }

    fn ask(&mut self, _: &str) -> Option<bool> {
        Some(true)
    }

    fn interactive(&self) -> bool {
        false
    }
}

/// Returns the path of the stressor that `cargo xtask test` has built.
fn stressor() -> PathBuf {
    let dist = std::env::var_os("TESTBED_DIST").expect("`cargo xtask test` sets TESTBED_DIST");
    Path::new(&dist).join("stressor")
}

#[test]
#[ignore = "downloads the distribution's kernel: cargo xtask test"]
fn concurrent_setups_download_the_distributions_kernel_without_installing_it() {
    let runner = SystemRunner;
    if runner.find("apt-get").is_none() {
        eprintln!("skipped: this system has no apt");
        return;
    }
    if !matches!(Qemu::probe(&runner), Qemu::Ready { .. }) {
        eprintln!("skipped: no QEMU is installed, and this test must not install it");
        return;
    }
    let _turn = Turn::shared();
    let boot = || std::fs::read_dir("/boot").map_or(0, Iterator::count);
    let installed_before = boot();
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path());
    let set_up = || {
        let runner = SystemRunner;
        let host = LocalHost::detect(&runner, cache.clone());
        let kernel = KernelRequest::Distribution;
        let options = SetupOptions { yes: true, kernel, stressor: stressor(), ..SetupOptions::default() };
        let mut prompt = Agreeing::default();
        setup::run(&options, &host, &mut prompt).map(|()| prompt.0)
    };
    std::thread::scope(|scope| {
        let both = [scope.spawn(set_up), scope.spawn(set_up)];
        for said in both.map(|thread| thread.join().unwrap()) {
            let said = said.unwrap_or_else(|error| panic!("{error}")).join("\n");
            assert!(said.contains("without installing it"), "{said}");
        }
    });
    assert_eq!(boot(), installed_before, "nothing was installed");

    let files = image::prepare(&KernelChoice::Auto, &stressor(), &cache).unwrap();
    assert_eq!(files.kernel_source, KernelSource::Cached);
    assert!(files.kernel.starts_with(dir.path()));
    let archive = std::fs::read(&files.initramfs).unwrap();
    let holds = |name: &[u8]| archive.windows(name.len()).any(|bytes| bytes == name);
    for module in image::GUEST_MODULES {
        assert!(holds(format!("{module}.ko").as_bytes()), "{module} is a module of that kernel");
    }
    assert!(!cache.path("setup").exists(), "the download must be removed");
}
