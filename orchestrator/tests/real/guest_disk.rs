//! A guest's disk, in QEMU: the kernel finds it, and the stressor writes, reads and verifies it.

use crate::common::real::ready;
use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};
use stressor::{
    disk::{BLOCK_BYTES, DiskLoad, DiskVerification, fill_image},
    protocol::{self, PORT},
};
use testbed::{
    driver::{
        control_port::{ControlPort, Error},
        qemu::machine::QEMU,
    },
    image::{self, Cache, GuestFiles, KernelChoice},
};
use tokio::sync::mpsc;

/// How long to wait for the guest at most.
const PATIENCE: Duration = Duration::from_secs(120);

/// A guest in a QEMU that is killed when this value is dropped.
struct Guest {
    qemu: Child,
    port: ControlPort,
}

impl Guest {
    /// Boots a guest, with this disk if given, and waits until its stressor has started.
    async fn boot(files: &GuestFiles, place: &Path, disk: Option<&Path>) -> Self {
        let socket = place.join("control");
        let mut qemu = Command::new(QEMU);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-machine", "pc,accel=tcg", "-cpu", "qemu64", "-m", "192M"])
            .arg("-kernel")
            .arg(&files.kernel)
            .arg("-initrd")
            .arg(&files.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"])
            .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
            .args(["-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!("socket,id=control,path={},server=on,wait=on", socket.display()))
            .args(["-device", &format!("virtserialport,chardev=control,name={PORT}")]);
        if let Some(disk) = disk {
            qemu.arg("-drive")
                .arg(format!("if=none,id=disk,format=raw,cache=none,file={}", disk.display()))
                .args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        // The test harness shows the console only if the test fails.
        let mut qemu = qemu.stdin(Stdio::null()).spawn().unwrap();
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                break stream;
            }
            assert!(qemu.try_wait().unwrap().is_none(), "QEMU has exited");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let (sender, lines) = mpsc::unbounded_channel();
        let input = BufReader::new(stream.try_clone().unwrap());
        thread::spawn(move || {
            for line in input.lines().map_while(Result::ok) {
                let _ = sender.send(Ok(line));
            }
        });
        let output = Mutex::new(stream);
        let port = ControlPort::start(lines, move |line| {
            let _ = writeln!(output.lock().unwrap(), "{line}");
        });
        let guest = Self { qemu, port };
        guest.port.hello(PATIENCE).await.unwrap();
        guest
    }

    async fn set_disk(&self, load: DiskLoad) -> Result<(), Error> {
        self.port.request("use its disk", protocol::Command::SetDisk(load), PATIENCE).await
    }

    async fn verify_disk(&self) -> DiskVerification {
        self.port.verify_disk(PATIENCE).await.unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // An error means that QEMU has already exited.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Returns why a request has failed.
fn reason(outcome: Result<(), Error>) -> String {
    outcome.expect_err("the disk is not as described").to_string()
}

#[tokio::test]
#[ignore = "boots guests in QEMU: cargo xtask test"]
async fn the_stressor_uses_and_verifies_the_guests_disk() {
    let Some(ready) = ready() else { return };
    let files = image::prepare(&KernelChoice::Auto, &ready.bin.join("stressor"), &Cache::user().unwrap());
    let files = files.unwrap();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk: PathBuf = place.path().join("disk");
    let image = OpenOptions::new().read(true).write(true).create_new(true).open(&disk).unwrap();
    let load: DiskLoad = serde_yaml::from_str(
        "{ size: 64MiB, written: 16MiB, working_set: 20MiB, write: 2MB/s, read: 2MB/s }",
    )
    .unwrap();
    image.set_len(load.size.get()).unwrap();
    fill_image(&image, load.written).unwrap();
    image.sync_all().unwrap();

    let guest = Guest::boot(&files, place.path(), Some(&disk)).await;
    let other = DiskLoad { size: load.written, ..load.clone() };
    let why = reason(guest.set_disk(DiskLoad { working_set: load.written, ..other }).await);
    assert!(why.contains("the disk /dev/vda has 64MiB, but 16MiB is stated"), "{why}");
    let why = reason(guest.set_disk(DiskLoad { written: load.working_set, ..load.clone() }).await);
    assert!(why.contains("written beforehand, held only zeros"), "{why}");

    guest.set_disk(load.clone()).await.unwrap();
    guest.port.request("start", protocol::Command::Start, PATIENCE).await.unwrap();
    let used = |samples: &[testbed::driver::control_port::TelemetrySample]| {
        let disk = samples.last()?.telemetry.disk?;
        (disk.bytes_written > 1_000_000 && disk.bytes_read > 1_000_000).then_some(())
    };
    guest.port.wait_for_telemetry("use its disk", PATIENCE, used).await.unwrap();
    let good = DiskVerification { blocks_checked: load.blocks(), ..DiskVerification::default() };
    assert_eq!(guest.verify_disk().await, good);

    // The guest detects damage made on the host, both in what was written beforehand and in what was never
    // written.
    for index in [load.written_blocks() - 1, load.blocks() - 1] {
        image.write_all_at(b"damage", index * BLOCK_BYTES + 512).unwrap();
        image.sync_all().unwrap();
    }
    let found = guest.verify_disk().await;
    let first = found.first_bad.clone().expect("the damage is found").to_string();
    assert_eq!(found.blocks_bad, 2, "{first}");
    assert!(first.ends_with(" at byte 512"), "{first}");
    drop(guest);

    let guest = Guest::boot(&files, place.path(), None).await;
    let why = reason(guest.set_disk(load).await);
    assert!(why.contains("cannot open the disk /dev/vda: No such file"), "{why}");
}
