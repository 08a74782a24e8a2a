use crate::{CapturedOutput, ControlSession, PATIENCE, capture, json_lines, run, send, stressor};
use rustix::process::geteuid;
use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};
use stressor::{
    disk::{BLOCK_BYTES, DiskLoad, DiskVerification, fill_block, fill_image},
    protocol::{self, Answer, DiskTelemetry},
};
use tempfile::TempDir;

/// A folder on a file system with direct I/O.
struct Folder(TempDir);

impl Folder {
    /// Creates a folder. Prints why the test is skipped if it does not support direct I/O.
    fn new() -> Option<Self> {
        let folder = Self(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        folder.has_direct_io().then_some(folder)
    }

    fn has_direct_io(&self) -> bool {
        let probe = self.path("probe");
        File::create(&probe).unwrap();
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&probe);
        fs::remove_file(probe).unwrap();
        if let Err(error) = &opened {
            println!("skipped: no direct I/O in {}: {error}", self.0.path().display());
        }
        opened.is_ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates a disk of 256 blocks, of which the first 128 are written beforehand.
    fn disk(&self) -> Disk {
        let path = self.path("disk");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(256 * BLOCK_BYTES).unwrap();
        fill_image(&file, "512KiB".parse().unwrap()).unwrap();
        Disk { path, file }
    }
}

/// A disk that tests examine and damage from outside.
struct Disk {
    path: PathBuf,
    file: File,
}

impl Disk {
    fn read(&self, index: u64) -> [u8; 4096] {
        let mut block = [0; 4096];
        self.file.read_exact_at(&mut block, index * BLOCK_BYTES).unwrap();
        block
    }

    fn write(&self, index: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, index * BLOCK_BYTES).unwrap();
        self.file.sync_all().unwrap();
    }

    /// Starts a session with this disk.
    fn session(&self) -> ControlSession {
        ControlSession::of(on_disk("--control --disk-overwrite", &self.path))
    }
}

/// Returns a command that runs the stressor on this disk.
fn on_disk(args: &str, path: &Path) -> Command {
    let mut command = stressor(args);
    command.arg("--disk").arg(path);
    command
}

fn run_on(args: &str, path: &Path) -> CapturedOutput {
    let mut command = on_disk(args, path);
    let output = command.output().unwrap();
    capture(&command, output)
}

/// Runs the stressor on this disk until it has printed a status, and then ends it with a signal.
fn run_until_status(args: &str, path: &Path, signal: &str) -> CapturedOutput {
    let mut command = on_disk(args, path);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    let mut stdout = Vec::new();
    printed.read_until(b'\n', &mut stdout).unwrap();
    send(signal, &child);
    printed.read_to_end(&mut stdout).unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    capture(&command, Output { status, stdout, stderr })
}

/// Returns a load on [`Folder::disk`] with these settings, in YAML.
fn load(settings: &str) -> DiskLoad {
    let load: DiskLoad = serde_yaml::from_str(settings).unwrap();
    DiskLoad { size: "1MiB".parse().unwrap(), written: "512KiB".parse().unwrap(), ..load }
}

/// The load of most tests. Some blocks of its working set were written beforehand, others were not.
const BOTH: &str = "{ working_set: 768KiB, write: 40MB/s, read: 40MB/s }";

impl ControlSession {
    fn set_disk(&mut self, settings: &str) {
        assert_eq!(self.request(protocol::Command::SetDisk(load(settings))), Answer::Done);
    }

    fn start_all(&mut self) {
        assert_eq!(self.request(protocol::Command::Start), Answer::Done);
    }

    /// Returns why a description of the disk is refused.
    fn refused(&mut self, load: DiskLoad) -> String {
        match self.request(protocol::Command::SetDisk(load)) {
            Answer::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn verify_disk(&mut self) -> DiskVerification {
        match self.request(protocol::Command::VerifyDisk) {
            Answer::DiskVerified(verification) => verification,
            other => panic!("{other:?} instead of a verification"),
        }
    }

    fn disk_telemetry(&mut self) -> DiskTelemetry {
        self.telemetry().disk.expect("there is a disk")
    }

    /// Waits until the load on the disk has done something.
    #[track_caller]
    fn wait_for(&mut self, done: impl Fn(&DiskTelemetry) -> bool) -> DiskTelemetry {
        let started = Instant::now();
        loop {
            let telemetry = self.disk_telemetry();
            if done(&telemetry) {
                return telemetry;
            }
            assert!(started.elapsed() < PATIENCE, "{telemetry:?}");
        }
    }

    /// Waits until the load has written, and read, its working set several times.
    #[track_caller]
    fn wait_for_rounds(&mut self) {
        let before = self.disk_telemetry();
        let bytes = 3 << 20;
        self.wait_for(|now| {
            now.bytes_written - before.bytes_written > bytes && now.bytes_read - before.bytes_read > bytes
        });
    }
}

fn good() -> DiskVerification {
    DiskVerification { blocks_checked: 256, ..DiskVerification::default() }
}

#[test]
fn a_disk_is_written_read_and_verified() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let mut session = disk.session();
    assert_eq!(session.telemetry().disk, None);
    session.set_disk(BOTH);
    assert_eq!(session.disk_telemetry(), DiskTelemetry::default());
    session.start_all();
    session.wait_for(|now| now.longest_write_ns > 0);
    session.wait_for(|now| now.longest_read_ns > 0);
    session.wait_for_rounds();
    assert_eq!(session.verify_disk(), good());
    // The verification has stopped the load, and dirtying continues.
    let still = session.disk_telemetry();
    assert_eq!(session.disk_telemetry().bytes_written, still.bytes_written);
    assert!(session.telemetry().running);

    // The stressor remembers what was written when the load changes. A single block, written and read
    // simultaneously, is the hardest case for its neighbours too.
    session.set_disk("{ working_set: 4KiB, write: unlimited, read: unlimited }");
    assert_eq!(session.verify_disk(), good());
    session.start_all();
    session.wait_for_rounds();
    assert_eq!(session.request(protocol::Command::Stop), Answer::Done);
    let (first, last) = (disk.read(0), disk.read(191));
    assert_eq!(session.verify_disk(), good());
    assert_eq!((disk.read(0), disk.read(191)), (first, last), "verification changes nothing");
    let why = session.refused(DiskLoad { written: "4KiB".parse().unwrap(), ..load(BOTH) });
    assert!(why.contains("of 1MiB with 512KiB written beforehand: these two cannot change"), "{why}");
    session.close();
}

#[test]
fn a_verification_waits_for_the_writes_in_flight() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let mut session = disk.session();
    session.set_disk("{ working_set: 1MiB, write: unlimited }");
    for _ in 0..30 {
        let before = session.disk_telemetry().bytes_written;
        session.start_all();
        session.wait_for(|now| now.bytes_written > before);
        assert_eq!(session.verify_disk(), good());
    }
    session.close();
}

#[test]
fn a_load_that_is_set_after_the_start_runs_at_once() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let mut session = disk.session();
    session.set("{ rate: 8MB/s, working_set: 1MiB }");
    session.start_all();
    session.set_disk(BOTH);
    session.wait_for_rounds();
    // Verifying the memory does not affect the disk.
    assert!(session.verify().first_bad.is_none());
    session.wait_for_rounds();
    session.set_disk("{ working_set: 1MiB, write: 80MB/s, read: 80MB/s }");
    session.wait_for_rounds();
    // The end of the input stops the load as well.
    session.close();
}

#[test]
fn without_a_disk_telemetry_has_none_and_requests_fail() {
    let mut session = ControlSession::start();
    let mut line = String::new();
    while !line.contains("telemetry") {
        line.clear();
        session.output.read_line(&mut line).unwrap();
    }
    assert!(!line.contains("disk"), "{line}");
    let why = session.refused(load(BOTH));
    assert!(why.contains("has no disk: name one with --disk"), "{why}");
    let answer = session.request(protocol::Command::VerifyDisk);
    assert!(matches!(&answer, Answer::Failed(why) if why.contains("no disk to verify")), "{answer:?}");
    session.close();
}

#[test]
fn a_disk_that_is_not_as_described_is_refused_and_stays_as_it_is() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let before = fs::read(&disk.path).unwrap();
    let mut session = disk.session();
    session.start_all();
    let sizes = |size: &str, written: &str| DiskLoad {
        size: size.parse().unwrap(),
        written: written.parse().unwrap(),
        ..load(BOTH)
    };
    for (load, words) in [
        (sizes("2MiB", "512KiB"), "has 1MiB, but 2MiB is stated"),
        (sizes("1MiB", "516KiB"), "block 128 of the disk, written beforehand, held only zeros"),
        (sizes("1MiB", "508KiB"), "block 127 of the disk, never written, held its initial content"),
        (sizes("1MiB", "2MiB"), "written beforehand is 2MiB, but the disk has only 1MiB"),
        (sizes("4095B", "0"), "at least one block"),
    ] {
        let why = session.refused(load);
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(session.telemetry().disk, None);
    assert!(fs::read(&disk.path).unwrap() == before);
    // The correct description is still accepted.
    session.set_disk(BOTH);
    session.wait_for_rounds();
    assert_eq!(session.verify_disk(), good());
    session.close();
}

#[test]
fn damaged_blocks_are_found_wherever_they_are() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let mut session = disk.session();
    session.set_disk(BOTH);
    session.start_all();
    session.wait_for_rounds();
    assert_eq!(session.request(protocol::Command::Stop), Answer::Done);
    let whole: Vec<_> = (0..256).map(|index| disk.read(index)).collect();
    let mut older = [0; 4096];
    fill_block(&mut older, 150, 1);
    let mut torn = whole[3];
    torn[4095] ^= 1;
    let mut initial = [0; 4096];
    fill_block(&mut initial, 100, 0);
    for (index, bytes, words) in [
        (3, &torn, "at byte 4088"),
        (20, &whole[21], "held the content of block 21, generation "),
        (100, &initial, "held its initial content, without any of the writes"),
        (150, &older, "held its content of generation 1"),
        (151, &[0; 4096], "held only zeros"),
        (255, &[1; 4096], "block 255 of the disk, never written, held 0x0101010101010101 instead of 0x0"),
    ] {
        disk.write(index, bytes);
        let found = session.verify_disk();
        let first = found.first_bad.clone().expect("the damage is found");
        assert_eq!((found.blocks_bad, first.index), (1, index), "{first}");
        assert!(first.to_string().contains(words), "{first}");
        assert!(!found.is_good());
        disk.write(index, &whole[index as usize]);
        assert_eq!(session.verify_disk(), good());
    }
    session.close();
}

#[test]
fn a_wrong_read_is_reported() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let mut session = disk.session();
    session.set_disk("{ working_set: 512KiB, read: unlimited }");
    session.start_all();
    let right = disk.read(5);
    disk.write(5, &disk.read(6));
    session.wait_for(|now| now.reads_bad > 0);
    disk.write(5, &right);
    let found = session.verify_disk();
    assert!(found.reads_bad > 0 && found.io_errors == 0, "{found:?}");
    // The disk is correct again, but was not always.
    assert_eq!((found.blocks_bad, &found.first_bad, found.is_good()), (0, &None, false));
    let first = found.first_bad_read.unwrap().to_string();
    assert_eq!(first, "block 5 of the disk, written beforehand, held the content of block 6, generation 0");
    session.close();
}

#[test]
fn a_disk_that_is_cut_short_is_reported_and_ends_nothing() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let mut session = disk.session();
    session.set("{ rate: 8MB/s, working_set: 1MiB }");
    session.set_disk("{ working_set: 512KiB, read: unlimited }");
    session.start_all();
    disk.file.set_len(100 * BLOCK_BYTES).unwrap();
    session.wait_for(|now| now.io_errors > 0);
    let pages = session.telemetry().pages_dirtied;
    while session.telemetry().pages_dirtied == pages {}
    let found = session.verify_disk();
    assert_eq!((found.blocks_checked, found.blocks_bad), (256, 156));
    let first = found.first_bad.unwrap().to_string();
    assert!(first.contains("block 100 of the disk, written beforehand, held nothing that can be"), "{first}");
    let error = found.first_error.unwrap();
    assert!(
        error.starts_with("cannot read block 1") && error.ends_with("the disk ends before it"),
        "{error}"
    );
    assert!(session.verify().first_bad.is_none());
    session.close();
}

#[test]
fn writes_that_fail_are_reported_and_end_nothing() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    // Beyond this limit, writing fails, and the kernel sends a signal that ends programs by default.
    let mut command = Command::new("prlimit");
    command.args(["--fsize=409600", env!("CARGO_BIN_EXE_stressor"), "--control", "--disk-overwrite"]);
    command.arg("--disk").arg(&disk.path);
    let mut session = ControlSession::of(command);
    session.set("{ rate: 8MB/s, working_set: 1MiB }");
    session.set_disk(BOTH);
    session.start_all();
    let before = session.wait_for(|now| now.io_errors > 10);
    session.wait_for(|now| now.bytes_written > before.bytes_written && now.bytes_read > before.bytes_read);
    let found = session.verify_disk();
    // The blocks hold their previous content: no failed write is expected there.
    assert_eq!((found.blocks_checked, found.blocks_bad, found.reads_bad), (256, 0, 0), "{found:?}");
    let error = found.first_error.unwrap();
    assert!(error.starts_with("cannot write block 1") && error.contains("File too large"), "{error}");
    assert!(session.verify().first_bad.is_none());
    session.close();
}

#[test]
fn the_program_creates_a_disk_and_keeps_it() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.path("new");
    let args = "--disk-size 1MiB --disk-written 512KiB --disk-working-set 768KiB --disk-write 4MB/s \
                --disk-read unlimited";
    let output = run_until_status(&format!("{args} --json"), &path, "INT");
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let lines = json_lines(&output.stdout);
    let status = &lines[0]["status"]["disk"];
    let summary = &lines.last().unwrap()["summary"]["disk"];
    for figure in ["bytes_written", "bytes_read", "written_bytes_per_s", "longest_write_ns"] {
        let [status, summary] = [status, summary].map(|figures| figures[figure].as_u64());
        assert!(status.is_some() && summary > Some(0), "{figure}");
    }
    assert_eq!(summary["verification"]["blocks_checked"], 256);
    assert_eq!(
        [&summary["verification"]["first_bad"], &summary["first_error"]],
        [&Value::Null, &Value::Null]
    );
    let load: DiskLoad = serde_json::from_value(summary["load"].clone()).unwrap();
    assert_eq!(load.working_set.to_string(), "768KiB");
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);

    // The file is not overwritten unless the user says so.
    let before = fs::read(&path).unwrap();
    let refused = run_on(&format!("{args} --duration 1s"), &path);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""));
    assert!(refused.stderr.contains("new is not empty: name another disk, or add --disk-overwrite"));
    assert!(fs::read(&path).unwrap() == before);
    let output = run_until_status("--disk-overwrite --disk-write 4MB/s", &path, "INT");
    assert_eq!(output.code, Some(0));
    assert!(output.stdout.lines().next().unwrap().contains(" MB/s written "), "no line about memory");
    assert!(output.stdout.contains(" of 4.0 MB/s requested") && !output.stdout.contains("disk read"));
    assert!(output.stdout.ends_with("disk          256 blocks, all as written\n"));
}

#[test]
fn memory_and_disk_are_reported_side_by_side() {
    let Some(folder) = Folder::new() else { return };
    let args = "--rate 8MB/s --working-set 1MiB --disk-size 1MiB --disk-write 4MB/s";
    let output = run_until_status(args, &folder.path("new"), "INT");
    assert_eq!(output.code, Some(0));
    let mut lines = output.stdout.lines();
    assert!(lines.next().unwrap().contains("MB/s   stall"));
    assert!(lines.next().unwrap().contains(" MB/s written "));
    assert!(output.stdout.contains("256 pages, all as written"));
    assert!(output.stdout.contains("256 blocks, all as written"));
    let unchecked = format!("{args} --no-verify --disk-overwrite --duration 10ms");
    let unchecked = run_on(&unchecked, &folder.path("new"));
    assert!(unchecked.stdout.contains("memory        not verified"));
    assert!(unchecked.stdout.ends_with("disk          not verified\n"));
}

#[test]
fn an_interruption_stops_and_verifies_the_disk() {
    let Some(folder) = Folder::new() else { return };
    for signal in ["INT", "TERM"] {
        let args = "--disk-size 1MiB --disk-write unlimited --disk-read unlimited";
        let output = run_until_status(args, &folder.path(signal), signal);
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{signal}");
        assert!(output.stdout.ends_with("disk          256 blocks, all as written\n"), "{signal}");
    }
}

#[test]
fn a_disk_that_cannot_be_used_is_refused_before_anything_changes() {
    let Some(folder) = Folder::new() else { return };
    let full = folder.path("full");
    fs::write(&full, "a letter").unwrap();
    fs::write(folder.path("empty"), "").unwrap();
    let new = "--disk-size 1MiB --disk-write 1MB/s --duration 1s";
    for (args, name, words) in [
        (new, "full", "full is not empty: name another disk, or add --disk-overwrite"),
        ("--control", "full", "full is not empty"),
        (new, ".", "it is a directory; name a file or a block device"),
        (new, "/dev/null", "it is neither a file nor a block device"),
        (new, "absent/disk", "cannot open the disk"),
        (
            "--disk-write 1MB/s",
            "absent",
            "absent is empty or does not exist: state its size with --disk-size",
        ),
        ("--disk-write 1MB/s", "empty", "empty is empty or does not exist"),
        ("--disk-size 1KiB", "absent", "a disk of 1KiB is too small"),
        ("--disk-size 1MiB --disk-written 2MiB", "absent", "written beforehand is 2MiB, but"),
        ("--disk-size 1MiB --disk-working-set 2MiB", "absent", "the working set on the disk is 2MiB, but"),
        ("--disk-size 1MiB --disk-working-set 0 --disk-read 1MB/s", "absent", "needs a working set on it"),
        ("--disk-size 1MiB --disk-write 5", "absent", "`5` has no unit"),
        ("--disk-size 128TiB --disk-write 1MB/s", "absent", "make that working set smaller"),
        ("--disk-size 1MiB --working-set 100TB", "absent", "make the working set or the ballast smaller"),
        ("--control --disk-write 1MB/s", "absent", "cannot be used with"),
    ] {
        let output = run_on(args, &folder.0.path().join(name));
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{args}");
        assert!(output.stderr.starts_with("error: ") && output.stderr.contains(words), "{args}");
        assert!(!folder.path("absent").exists(), "{args}");
    }
    assert_eq!(fs::read_to_string(&full).unwrap(), "a letter");
    let output = run("--disk-write 1MB/s");
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("--disk <PATH>"));
}

#[test]
fn two_stressors_do_not_share_a_disk() {
    let Some(folder) = Folder::new() else { return };
    let disk = folder.disk();
    let session = disk.session();
    let output = run_on("--disk-overwrite --disk-write 1MB/s --duration 1s", &disk.path);
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""));
    assert!(output.stderr.contains("disk is in use, by another stressor"));
    session.close();
}

/// Runs a shell script in a mount namespace of its own, in which `$1` is the stressor and `$2` a folder.
/// Prints why the test is skipped if that is not possible.
fn in_namespace(script: &str, folder: &Folder) -> Option<CapturedOutput> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", script, "sh", env!("CARGO_BIN_EXE_stressor")]);
    let output = command.arg(folder.0.path()).output().unwrap();
    let output = capture(&command, output);
    for reason in ["unshare: ", "mount: ", "losetup: ", "mkfs", "does not support direct I/O"] {
        if output.stderr.contains(reason) {
            println!("skipped: {}", output.stderr);
            return None;
        }
    }
    Some(output)
}

#[test]
fn a_full_file_system_is_reported() {
    let Some(folder) = Folder::new() else { return };
    let tmpfs = "mount -t tmpfs -o size=512k tmpfs \"$2\"; cd \"$2\"";
    let script = format!("{tmpfs}; \"$1\" --disk disk --disk-size 1MiB --disk-write unlimited --duration 1s");
    let Some(output) = in_namespace(&script, &folder) else { return };
    assert_eq!(output.code, Some(1));
    let error = output.stdout.lines().find(|line| line.starts_with("disk errors   ")).unwrap();
    assert!(error.contains("the first: cannot write block "), "{error}");
    assert!(error.contains("of the disk disk: No space left on device"), "{error}");
    assert!(
        output.stdout.ends_with("disk          256 blocks, all as written\n"),
        "what failed is as before"
    );

    // If there is no space for the data written beforehand, nothing is written, and a file that is there
    // keeps what it holds.
    let script = format!(
        "{tmpfs}; echo text > old; for disk in disk old; do
             \"$1\" --disk $disk --disk-overwrite --disk-size 1MiB --disk-written 1MiB --disk-read 1MB/s \
                 || echo $?
         done; ls; cat old; exit 2"
    );
    let Some(output) = in_namespace(&script, &folder) else { return };
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), "2\n2\nold\ntext\n"));
    for (disk, free) in [("disk", 508), ("old", 512)] {
        let error = format!(
            "error: cannot write 1MiB to the disk {disk} beforehand: its file system has only {free} KiB \
             free; lower --disk-written"
        );
        assert!(output.stderr.contains(&error), "{}", output.stderr);
    }

    // What a file holds now is free once it is overwritten.
    let script = format!(
        "{tmpfs}; head -c 400000 /dev/zero > old; \"$1\" --disk old --disk-overwrite --disk-size 1MiB \
         --disk-written 400KiB --disk-read 1MB/s --duration 100ms"
    );
    let Some(output) = in_namespace(&script, &folder) else { return };
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

/// A disk whose name a terminal would interpret as commands, and whose message is part of the output.
#[test]
fn control_characters_of_the_name_of_a_disk_are_shown() {
    let Some(folder) = Folder::new() else { return };
    for json in ["", "--json"] {
        let script = format!(
            "mount -t tmpfs -o size=512k tmpfs \"$2\"; cd \"$2\"; \
             \"$1\" --disk \"$(printf 'a\\033[31mb\\177c\\302\\233d\\342\\200\\256e\\nf')\" \
             --disk-size 1MiB --disk-write unlimited --duration 1s {json}"
        );
        let Some(output) = in_namespace(&script, &folder) else { return };
        assert_eq!(output.code, Some(1));
        let sent = output.stdout.chars().find(|&c| c.is_control() && c != '\n' || c == '\u{202e}');
        assert_eq!(sent, None, "{:?}", output.stdout);
        if json.is_empty() {
            assert!(output.stdout.contains("disk a␛[31mb␡c\u{fffd}d\u{fffd}e␊f: "), "{}", output.stdout);
        } else {
            let summary = json_lines(&output.stdout).pop().unwrap();
            let error = summary["summary"]["disk"]["first_error"].as_str().unwrap();
            assert!(error.contains("disk a\x1b[31mb\x7fc\u{9b}d\u{202e}e\nf: "), "JSON keeps it: {error:?}");
        }
    }
}

#[test]
fn a_block_device_is_used_if_it_may_be_overwritten_and_is_not_mounted() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let Some(folder) = Folder::new() else { return };
    // Old content shows whether the whole device is written anew.
    let script = r#"
        tr '\0' x < /dev/zero | head -c 4194304 > "$2/image"
        device=$(losetup --show -f "$2/image")
        trap 'losetup -d "$device"' EXIT
        "$1" --disk "$device" --disk-write 4MB/s && exit 9
        "$1" --disk "$device" --disk-overwrite --disk-size 2MiB && exit 9
        "$1" --disk "$device" --disk-overwrite --disk-written 1MiB --disk-working-set 2MiB \
            --disk-write 4MB/s --disk-read 4MB/s --duration 100ms
        mkfs.ext2 -q "$device"
        mkdir "$2/mounted"
        mount "$device" "$2/mounted"
        "$1" --disk "$device" --disk-overwrite --disk-write 4MB/s && exit 9
        umount "$2/mounted"
    "#;
    let Some(output) = in_namespace(script, &folder) else { return };
    assert_eq!(output.code, Some(0));
    assert!(output.stdout.ends_with("disk          1024 blocks, all as written\n"));
    let mut errors = output.stderr.lines().filter(|line| line.starts_with("error: "));
    for words in [
        "is a block device: name another disk, or add --disk-overwrite",
        "has 4MiB, but 2MiB is stated: state its real size",
        "is in use, by another stressor or because it is mounted",
    ] {
        let error = errors.next().unwrap();
        assert!(error.contains(words), "{error}");
    }
}
