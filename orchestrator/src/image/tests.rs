//! Tests of the guest's files as a whole: caching, concurrent use, killed writers.

use super::compress::Format;
use super::fixtures::{RELEASE, Tree, bzimage, module, payload, program, vmlinux};
use super::*;
use std::{os::unix::fs::MetadataExt, time::SystemTime};

struct Fixture {
    dir: tempfile::TempDir,
    tree: Tree,
    stressor: PathBuf,
    cache: Cache,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(&dir.path().join("tree"));
        let stressor = dir.path().join("stressor");
        fs::write(&stressor, program(false)).unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        Self { dir, tree, stressor, cache }
    }

    fn given(&self) -> KernelChoice {
        KernelChoice::Given { image: self.tree.image(), modules: Some(self.tree.modules()) }
    }

    fn prepare(&self, choice: &KernelChoice) -> Result<GuestFiles, Error> {
        let nowhere = HostKernel { root: self.dir.path().join("nowhere"), release: RELEASE.to_owned() };
        prepare_on(choice, &self.stressor, &self.cache, &nowhere)
    }

    fn images(&self) -> usize {
        self.entries("initramfs")
    }

    fn entries(&self, directory: &str) -> usize {
        fs::read_dir(self.cache.path(directory)).map_or(0, Iterator::count)
    }

    /// Replaces the kernel image with a bzImage that has this payload.
    fn set_payload(&self, payload: &[u8]) {
        fs::write(self.tree.image(), bzimage(RELEASE, payload)).unwrap();
    }
}

#[test]
fn a_second_preparation_uses_the_cached_files() {
    let fixture = Fixture::new();
    let first = fixture.prepare(&fixture.given()).unwrap();
    assert_eq!(first.kernel, fixture.tree.image());
    assert_eq!(first.kernel_release, RELEASE);
    let written = |files: &GuestFiles| fs::metadata(&files.initramfs).unwrap().modified().unwrap();
    let time = written(&first);
    let second = fixture.prepare(&fixture.given()).unwrap();
    assert_eq!(second, first);
    assert_eq!(written(&second), time, "it was not written again");
}

#[test]
fn a_changed_stressor_gives_another_initramfs() {
    let fixture = Fixture::new();
    let first = fixture.prepare(&fixture.given()).unwrap();
    let mut changed = program(false);
    changed.push(1);
    fs::write(&fixture.stressor, changed).unwrap();
    let second = fixture.prepare(&fixture.given()).unwrap();
    assert_ne!(first.initramfs, second.initramfs);
    assert_ne!(first.digest, second.digest);
    assert_eq!(fixture.images(), 2);
}

#[test]
fn another_kernel_with_the_same_modules_is_another_guest() {
    let fixture = Fixture::new();
    let first = fixture.prepare(&fixture.given()).unwrap();
    let mut image = fs::read(fixture.tree.image()).unwrap();
    image.push(1);
    fs::write(fixture.tree.image(), image).unwrap();
    let second = fixture.prepare(&fixture.given()).unwrap();
    assert_eq!(first.initramfs, second.initramfs);
    assert_ne!(first.digest, second.digest);
}

#[test]
fn a_dynamic_stressor_is_refused_and_nothing_is_written() {
    let fixture = Fixture::new();
    fs::write(&fixture.stressor, program(true)).unwrap();
    let error = fixture.prepare(&fixture.given()).unwrap_err();
    assert!(error.to_string().contains("linked dynamically"), "{error}");
    assert!(!fixture.cache.root().exists());
}

#[test]
fn concurrent_preparations_write_one_initramfs() {
    let fixture = Fixture::new();
    let start = std::sync::Barrier::new(8);
    let all: Vec<(GuestFiles, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let files = fixture.prepare(&fixture.given()).unwrap();
                    let inode = fs::metadata(&files.initramfs).unwrap().ino();
                    (files, inode)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|files| *files == all[0]));
    assert_eq!(fixture.images(), 1, "and it was written once");
    assert!(fs::read(&all[0].0.initramfs).unwrap().ends_with(b"TRAILER!!!\0\0\0\0"));
}

#[test]
fn a_killed_writers_file_is_never_used_and_is_removed() {
    let fixture = Fixture::new();
    let whole = fixture.prepare(&fixture.given()).unwrap();
    let bytes = fs::read(&whole.initramfs).unwrap();
    // The state left by a writer that is killed before its rename: half a file in scratch, and no entry.
    let half = fixture.cache.path("scratch/.tmpAbCdEf");
    fs::rename(&whole.initramfs, &half).unwrap();
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let again = fixture.prepare(&fixture.given()).unwrap();
    assert_eq!(again, whole);
    assert_eq!(fs::read(&again.initramfs).unwrap(), bytes);
    assert!(!half.exists());
}

#[test]
fn an_adopted_kernel_is_used_after_its_source_is_deleted() {
    let fixture = Fixture::new();
    let given = fixture.prepare(&fixture.given()).unwrap();
    let writer = fixture.cache.lock().unwrap();
    let release = adopt(&fixture.tree.image(), Some(&fixture.tree.modules()), &writer).unwrap();
    drop(writer);
    assert_eq!(release, RELEASE);
    fs::remove_dir_all(&fixture.tree.root).unwrap();
    for choice in [KernelChoice::Auto, KernelChoice::Cached] {
        let files = fixture.prepare(&choice).unwrap();
        assert_eq!(files.kernel_source, KernelSource::Cached);
        assert_eq!(files.initramfs, given.initramfs, "the same modules in the same order");
        assert_eq!(files.digest, given.digest);
    }
}

#[test]
fn link_modules_are_cached_for_guests_that_ask_for_them() {
    let fixture = Fixture::new();
    let put = |name: &str, depends: &str| {
        fixture.tree.put("net", &format!("{name}.ko"), &module(name, depends, RELEASE));
    };
    put("bridge", "stp");
    put("stp", "");
    put("sch_netem", "");
    adopt(&fixture.tree.image(), None, &fixture.cache.lock().unwrap()).unwrap();
    let netem = fixture.dir.path().join("netem");
    fs::write(&netem, program(false)).unwrap();
    let assemble = |modules: &[&str], program: &Path| {
        let contents = ImageContents { init: &fixture.stressor, modules, programs: &[program] };
        assemble(&KernelChoice::Cached, &contents, &fixture.cache)
    };
    let image = assemble(&["bridge", "sch_netem"], &netem).unwrap();
    let holds = |text: &str| image.initramfs.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(holds("stp.ko\nbridge.ko\nsch_netem.ko\n") && holds("programs/netem\0"));
    assert!(!holds("virtio"), "a module that was not requested");
    let missing = assemble(&["sch_tbf"], &netem).unwrap_err();
    assert!(matches!(&missing, Error::MissingModule { module, .. } if module == "sch_tbf"), "{missing}");
    fs::write(&netem, program(true)).unwrap();
    assert!(
        matches!(assemble(&["bridge"], &netem).unwrap_err(), Error::Stressor { path, .. } if path == netem)
    );
}

#[test]
fn adopting_twice_keeps_one_copy() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        let writer = fixture.cache.lock().unwrap();
        adopt(&fixture.tree.image(), None, &writer).unwrap();
    }
    // The kernel's directory and the link to it.
    assert_eq!(fs::read_dir(fixture.cache.path("kernels")).unwrap().count(), 2);
}

#[test]
fn the_error_for_a_damaged_cached_kernel_names_the_cache() {
    let fixture = Fixture::new();
    let writer = fixture.cache.lock().unwrap();
    adopt(&fixture.tree.image(), None, &writer).unwrap();
    drop(writer);
    fs::remove_file(fixture.cache.path("kernels/current/modules/failover.ko")).unwrap();
    let error = fixture.prepare(&KernelChoice::Auto).unwrap_err().to_string();
    assert!(error.contains("the kernel in the cache is unusable"), "{error}");
    assert!(error.contains("failover"), "{error}");
}

#[test]
fn a_kernel_is_decompressed_once() {
    let fixture = Fixture::new();
    let kernel = vmlinux("Xen", 18);
    fixture.set_payload(&payload(Format::Lz4, &kernel));
    let first = fixture.prepare(&fixture.given()).unwrap();
    assert_eq!(first.boot, Boot::Uncompressed);
    assert!(first.kernel.starts_with(fixture.cache.path("vmlinux")));
    assert_eq!(fs::read(&first.kernel).unwrap(), kernel);
    // If the kernel were decompressed again, this content would be overwritten.
    fs::write(&first.kernel, "seen").unwrap();
    assert_eq!(fixture.prepare(&fixture.given()).unwrap(), first);
    assert_eq!(fs::read(&first.kernel).unwrap(), b"seen");

    adopt(&fixture.tree.image(), None, &fixture.cache.lock().unwrap()).unwrap();
    let adopted = fixture.prepare(&KernelChoice::Cached).unwrap();
    assert_eq!((adopted.kernel, adopted.digest), (first.kernel, first.digest), "the same image");
    assert_eq!(fixture.entries("vmlinux"), 1);
}

#[test]
fn each_image_has_its_own_decompressed_kernel() {
    let fixture = Fixture::new();
    let kernel = vmlinux("Xen", 18);
    let [first, second] = [Format::Zstd, Format::Xz].map(|format| {
        fixture.set_payload(&payload(format, &kernel));
        fixture.prepare(&fixture.given()).unwrap()
    });
    assert_ne!(first.kernel, second.kernel);
    assert_ne!(first.digest, second.digest);
    assert_eq!(fixture.entries("vmlinux"), 2);
}

#[test]
fn an_image_that_cannot_be_decompressed_is_booted_unchanged() {
    let fixture = Fixture::new();
    let mut damaged = payload(Format::Gzip, &vmlinux("Xen", 18));
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let without_entry = payload(Format::Zstd, &vmlinux("Xen", 1));
    for (payload, remembered) in [(damaged.as_slice(), 1), (&without_entry, 2), (b"unknown", 2)] {
        fixture.set_payload(payload);
        for _ in 0..2 {
            let files = fixture.prepare(&fixture.given()).unwrap();
            assert_eq!(files.boot, Boot::Compressed);
            assert_eq!(files.kernel, fixture.tree.image());
        }
        assert_eq!(fixture.entries("vmlinux"), remembered, "and tried once");
    }
}

#[test]
fn concurrent_preparations_decompress_one_kernel() {
    let fixture = Fixture::new();
    fixture.set_payload(&payload(Format::Xz, &vmlinux("Xen", 18)));
    let start = std::sync::Barrier::new(8);
    let inode = || {
        start.wait();
        fs::metadata(fixture.prepare(&fixture.given()).unwrap().kernel).unwrap().ino()
    };
    let all: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(inode)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|inode| *inode == all[0]), "it was written once");
}

#[test]
fn the_distributions_kernel_is_prepared() {
    let Some(root) = std::env::var_os("TESTBED_TEST_KERNEL").map(PathBuf::from) else {
        eprintln!("skipped: TESTBED_TEST_KERNEL does not name a directory with an unpacked kernel package");
        return;
    };
    let fixture = Fixture::new();
    let image = fs::read_dir(root.join("boot"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("vmlinuz"))
        .expect("a kernel under boot/");
    let choice = KernelChoice::Given { image, modules: Some(root) };
    let start = SystemTime::now();
    let files = fixture.prepare(&choice).unwrap();
    eprintln!("{files:?} in {:?}", start.elapsed());
    assert_eq!(files.boot, Boot::Uncompressed);
    if let Some(path) = std::env::var_os("TESTBED_TEST_VMLINUX") {
        assert!(fs::read(&files.kernel).unwrap() == fs::read(path).unwrap(), "another kernel came out");
    }
    let start = SystemTime::now();
    fixture.prepare(&choice).unwrap();
    eprintln!("again in {:?}", start.elapsed());
}
