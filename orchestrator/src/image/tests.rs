//! The guest's files as a whole: cached, shared, interrupted.

use super::compress::Format;
use super::fixtures::{RELEASE, Tree, bzimage, module, payload, program, vmlinux};
use super::*;
use std::{os::unix::fs::MetadataExt, time::SystemTime};

struct Setting {
    dir: tempfile::TempDir,
    tree: Tree,
    stressor: PathBuf,
    cache: Cache,
}

impl Setting {
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
        let nowhere = Host { root: self.dir.path().join("nowhere"), release: RELEASE.to_owned() };
        prepare_on(choice, &self.stressor, &self.cache, &nowhere)
    }

    fn images(&self) -> usize {
        self.entries("initramfs")
    }

    fn entries(&self, directory: &str) -> usize {
        fs::read_dir(self.cache.path(directory)).map_or(0, Iterator::count)
    }

    /// Makes the image one of this payload.
    fn pack(&self, payload: &[u8]) {
        fs::write(self.tree.image(), bzimage(RELEASE, payload)).unwrap();
    }
}

#[test]
fn a_second_preparation_finds_the_first() {
    let setting = Setting::new();
    let first = setting.prepare(&setting.given()).unwrap();
    assert_eq!(first.kernel, setting.tree.image());
    assert_eq!(first.kernel_release, RELEASE);
    let written = |files: &GuestFiles| fs::metadata(&files.initramfs).unwrap().modified().unwrap();
    let time = written(&first);
    let second = setting.prepare(&setting.given()).unwrap();
    assert_eq!(second, first);
    assert_eq!(written(&second), time, "it was not written again");
}

#[test]
fn another_stressor_gives_another_image() {
    let setting = Setting::new();
    let first = setting.prepare(&setting.given()).unwrap();
    let mut changed = program(false);
    changed.push(1);
    fs::write(&setting.stressor, changed).unwrap();
    let second = setting.prepare(&setting.given()).unwrap();
    assert_ne!(first.initramfs, second.initramfs);
    assert_ne!(first.digest, second.digest);
    assert_eq!(setting.images(), 2);
}

#[test]
fn another_kernel_with_the_same_modules_is_another_guest() {
    let setting = Setting::new();
    let first = setting.prepare(&setting.given()).unwrap();
    let mut image = fs::read(setting.tree.image()).unwrap();
    image.push(1);
    fs::write(setting.tree.image(), image).unwrap();
    let second = setting.prepare(&setting.given()).unwrap();
    assert_eq!(first.initramfs, second.initramfs);
    assert_ne!(first.digest, second.digest);
}

#[test]
fn a_dynamic_stressor_is_refused_and_nothing_is_written() {
    let setting = Setting::new();
    fs::write(&setting.stressor, program(true)).unwrap();
    let error = setting.prepare(&setting.given()).unwrap_err();
    assert!(error.to_string().contains("linked dynamically"), "{error}");
    assert!(!setting.cache.root().exists());
}

#[test]
fn many_at_once_make_one_image() {
    let setting = Setting::new();
    let start = std::sync::Barrier::new(8);
    let all: Vec<(GuestFiles, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let files = setting.prepare(&setting.given()).unwrap();
                    let inode = fs::metadata(&files.initramfs).unwrap().ino();
                    (files, inode)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|files| *files == all[0]));
    assert_eq!(setting.images(), 1, "and it was written once");
    assert!(fs::read(&all[0].0.initramfs).unwrap().ends_with(b"TRAILER!!!\0\0\0\0"));
}

#[test]
fn what_was_cut_off_is_never_used_and_cleared() {
    let setting = Setting::new();
    let whole = setting.prepare(&setting.given()).unwrap();
    let bytes = fs::read(&whole.initramfs).unwrap();
    // As a writer leaves it that was killed before its rename: half a file under scratch, none in place.
    let half = setting.cache.path("scratch/.tmpAbCdEf");
    fs::rename(&whole.initramfs, &half).unwrap();
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let again = setting.prepare(&setting.given()).unwrap();
    assert_eq!(again, whole);
    assert_eq!(fs::read(&again.initramfs).unwrap(), bytes);
    assert!(!half.exists());
}

#[test]
fn an_adopted_kernel_serves_without_its_source() {
    let setting = Setting::new();
    let given = setting.prepare(&setting.given()).unwrap();
    let writer = setting.cache.lock().unwrap();
    let release = adopt(&setting.tree.image(), Some(&setting.tree.modules()), &writer).unwrap();
    drop(writer);
    assert_eq!(release, RELEASE);
    fs::remove_dir_all(&setting.tree.root).unwrap();
    for choice in [KernelChoice::Auto, KernelChoice::Cached] {
        let files = setting.prepare(&choice).unwrap();
        assert_eq!(files.kernel_source, KernelSource::Cached);
        assert_eq!(files.initramfs, given.initramfs, "the same modules in the same order");
        assert_eq!(files.digest, given.digest);
    }
}

#[test]
fn modules_for_links_are_kept_and_a_guest_can_have_them() {
    let setting = Setting::new();
    let put = |name: &str, depends: &str| {
        setting.tree.put("net", &format!("{name}.ko"), &module(name, depends, RELEASE));
    };
    put("bridge", "stp");
    put("stp", "");
    put("sch_netem", "");
    adopt(&setting.tree.image(), None, &setting.cache.lock().unwrap()).unwrap();
    let netem = setting.dir.path().join("netem");
    fs::write(&netem, program(false)).unwrap();
    let assemble = |modules: &[&str], program: &Path| {
        let contents = Contents { init: &setting.stressor, modules, programs: &[program] };
        assemble(&KernelChoice::Cached, &contents, &setting.cache)
    };
    let image = assemble(&["bridge", "sch_netem"], &netem).unwrap();
    let holds = |text: &str| image.initramfs.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(holds("stp.ko\nbridge.ko\nsch_netem.ko\n") && holds("programs/netem\0"));
    assert!(!holds("virtio"), "nothing that was not asked for");
    let missing = assemble(&["sch_tbf"], &netem).unwrap_err();
    assert!(matches!(&missing, Error::MissingModule { module, .. } if module == "sch_tbf"), "{missing}");
    fs::write(&netem, program(true)).unwrap();
    assert!(
        matches!(assemble(&["bridge"], &netem).unwrap_err(), Error::Stressor { path, .. } if path == netem)
    );
}

#[test]
fn adopting_twice_keeps_one_copy() {
    let setting = Setting::new();
    for _ in 0..2 {
        let writer = setting.cache.lock().unwrap();
        adopt(&setting.tree.image(), None, &writer).unwrap();
    }
    // The kernel and the link to it.
    assert_eq!(fs::read_dir(setting.cache.path("kernels")).unwrap().count(), 2);
}

#[test]
fn a_cached_kernel_that_is_damaged_is_named() {
    let setting = Setting::new();
    let writer = setting.cache.lock().unwrap();
    adopt(&setting.tree.image(), None, &writer).unwrap();
    drop(writer);
    fs::remove_file(setting.cache.path("kernels/current/modules/failover.ko")).unwrap();
    let error = setting.prepare(&KernelChoice::Auto).unwrap_err().to_string();
    assert!(error.contains("the one in the cache does not serve"), "{error}");
    assert!(error.contains("failover"), "{error}");
}

#[test]
fn a_kernel_is_decompressed_once() {
    let setting = Setting::new();
    let kernel = vmlinux("Xen", 18);
    setting.pack(&payload(Format::Lz4, &kernel));
    let first = setting.prepare(&setting.given()).unwrap();
    assert_eq!(first.boot, Boot::Uncompressed);
    assert!(first.kernel.starts_with(setting.cache.path("vmlinux")));
    assert_eq!(fs::read(&first.kernel).unwrap(), kernel);
    // Were it made again, it would be whole again.
    fs::write(&first.kernel, "seen").unwrap();
    assert_eq!(setting.prepare(&setting.given()).unwrap(), first);
    assert_eq!(fs::read(&first.kernel).unwrap(), b"seen");

    adopt(&setting.tree.image(), None, &setting.cache.lock().unwrap()).unwrap();
    let adopted = setting.prepare(&KernelChoice::Cached).unwrap();
    assert_eq!((adopted.kernel, adopted.digest), (first.kernel, first.digest), "the same image");
    assert_eq!(setting.entries("vmlinux"), 1);
}

#[test]
fn each_image_has_its_own_kernel() {
    let setting = Setting::new();
    let kernel = vmlinux("Xen", 18);
    let [first, second] = [Format::Zstd, Format::Xz].map(|format| {
        setting.pack(&payload(format, &kernel));
        setting.prepare(&setting.given()).unwrap()
    });
    assert_ne!(first.kernel, second.kernel);
    assert_ne!(first.digest, second.digest);
    assert_eq!(setting.entries("vmlinux"), 2);
}

#[test]
fn an_image_that_cannot_be_decompressed_is_booted_as_it_is() {
    let setting = Setting::new();
    let mut damaged = payload(Format::Gzip, &vmlinux("Xen", 18));
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let without_entry = payload(Format::Zstd, &vmlinux("Xen", 1));
    for (payload, remembered) in [(damaged.as_slice(), 1), (&without_entry, 2), (b"unknown", 2)] {
        setting.pack(payload);
        for _ in 0..2 {
            let files = setting.prepare(&setting.given()).unwrap();
            assert_eq!(files.boot, Boot::Compressed);
            assert_eq!(files.kernel, setting.tree.image());
        }
        assert_eq!(setting.entries("vmlinux"), remembered, "and tried once");
    }
}

#[test]
fn many_at_once_decompress_one_kernel() {
    let setting = Setting::new();
    setting.pack(&payload(Format::Xz, &vmlinux("Xen", 18)));
    let start = std::sync::Barrier::new(8);
    let inode = || {
        start.wait();
        fs::metadata(setting.prepare(&setting.given()).unwrap().kernel).unwrap().ino()
    };
    let all: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(inode)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|inode| *inode == all[0]), "it was written once");
}

#[test]
fn the_distributions_kernel_gives_a_guest() {
    let Some(root) = std::env::var_os("TESTBED_TEST_KERNEL").map(PathBuf::from) else {
        eprintln!("skipped: TESTBED_TEST_KERNEL does not name a directory with an unpacked kernel package");
        return;
    };
    let setting = Setting::new();
    let image = fs::read_dir(root.join("boot"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("vmlinuz"))
        .expect("a kernel under boot/");
    let choice = KernelChoice::Given { image, modules: Some(root) };
    let start = SystemTime::now();
    let files = setting.prepare(&choice).unwrap();
    eprintln!("{files:?} in {:?}", start.elapsed());
    assert_eq!(files.boot, Boot::Uncompressed);
    if let Some(path) = std::env::var_os("TESTBED_TEST_VMLINUX") {
        assert!(fs::read(&files.kernel).unwrap() == fs::read(path).unwrap(), "another kernel came out");
    }
    let start = SystemTime::now();
    setting.prepare(&choice).unwrap();
    eprintln!("again in {:?}", start.elapsed());
}
