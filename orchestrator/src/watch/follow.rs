//! Follows a run through its results folder.
//!
//! The attempt in progress is the one whose folder was created after the last record was written. Its samples
//! and the reports of its probe are read as they are appended to their files.

use super::hub::{Hub, Point, point};
use crate::{
    bounded::open_file,
    results::{
        client::{LIVE_PROBE, LiveWindow},
        format::from_json,
        samples::SAMPLES,
        store,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often the folder is checked while there are viewers. A page shows a sample at most this much later.
const INTERVAL: Duration = Duration::from_millis(100);
/// More than the resolution of the times of files: that of some file systems is a second.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(1500);
/// The largest part of a file that is read in one step, in bytes. A longer line is left out.
const MOST_READ: u64 = 4 << 20;

/// Follows the folder and reports changes to the hub, for ever.
pub(super) async fn follow(mut follower: Follower, hub: &Hub) {
    loop {
        hub.viewer().await;
        // What was written before the end was requested is found by the check after it.
        let is_ending = hub.is_ending();
        follower.read_attempt(hub);
        // The viewers get the last samples of an attempt before the news that it is no longer in progress.
        tokio::task::yield_now().await;
        follower.read_folder(hub);
        if is_ending {
            hub.end();
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the version of the folder's report: a text that differs if the report may differ.
pub(super) fn version(folder: &Path) -> String {
    version_of(&report_files(folder))
}

/// Returns what is known of the files that the folder's report shows, the records first.
fn report_files(folder: &Path) -> [Option<Metadata>; 2] {
    [store::CELLS, store::ENVIRONMENT].map(|name| fs::metadata(folder.join(name)).ok())
}

fn version_of(files: &[Option<Metadata>; 2]) -> String {
    let of = |file: &Option<Metadata>| {
        file.as_ref().map_or_else(String::new, |file| {
            format!("{}.{}.{:09}", file.len(), file.mtime(), file.mtime_nsec())
        })
    };
    files.each_ref().map(of).join("-")
}

/// The position in the files of a results folder.
pub(super) struct Follower {
    folder: PathBuf,
    version: String,
    attempt: Option<FollowedAttempt>,
    /// The times at which the records and the list of attempts last changed.
    changed: [Option<SystemTime>; 2],
}

/// The attempt in progress.
struct FollowedAttempt {
    path: PathBuf,
    /// The inode number of its folder. If the attempt is made again, it has another folder of the same name.
    inode: u64,
    samples: GrowingFile,
    windows: GrowingFile,
}

/// A file that grows line by line, if it exists.
struct GrowingFile {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of an incomplete line.
    rest: Vec<u8>,
}

impl Follower {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), version: String::new(), attempt: None, changed: [None; 2] }
    }

    /// Reports what is new of the attempt in progress.
    fn read_attempt(&mut self, hub: &Hub) {
        if let Some(attempt) = &mut self.attempt {
            let points: Vec<Point> = attempt.samples.read().iter().filter_map(point).collect();
            if !points.is_empty() {
                hub.add(points);
            }
            let mut windows = attempt.windows.read();
            windows.retain(LiveWindow::is_consistent);
            if !windows.is_empty() {
                hub.add_windows(windows);
            }
        }
    }

    /// Reports changes of the records and of which attempt is in progress. Both come from one look at the
    /// records, so that the news that an attempt has ended comes after that of its record.
    fn read_folder(&mut self, hub: &Hub) {
        let files = report_files(&self.folder);
        let version = version_of(&files);
        if version != self.version {
            self.version.clone_from(&version);
            hub.set_version(version);
        }
        let attempts = self.folder.join("attempts");
        let modified = |found: &Option<Metadata>| found.as_ref()?.modified().ok();
        let changed = [modified(&files[0]), modified(&fs::metadata(&attempts).ok())];
        // The next change within a tick of the kernel's clock may not change the time.
        let is_recent = |time: &Option<SystemTime>| {
            time.is_some_and(|time| time.elapsed().is_ok_and(|age| age < CLOCK_RESOLUTION))
        };
        if changed != self.changed || changed.iter().any(is_recent) {
            self.changed = changed;
            let current = newest(&attempts).filter(|(_, found)| found.modified().ok() >= changed[0]);
            let known = self.attempt.as_ref().map(|attempt| (attempt.path.clone(), attempt.inode));
            let found = current.map(|(path, found)| (path, found.ino()));
            if found != known {
                let name = found.as_ref().and_then(|(path, _)| path.file_name());
                hub.set_attempt(name.map(|name| readable(&name.to_string_lossy())));
                self.attempt = found.map(|(path, inode)| FollowedAttempt {
                    samples: GrowingFile::new(path.join(SAMPLES)),
                    windows: GrowingFile::new(path.join(LIVE_PROBE)),
                    path,
                    inode,
                });
            }
        }
    }
}

/// Returns the subfolder that was changed last.
fn newest(folder: &Path) -> Option<(PathBuf, Metadata)> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let folders = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    folders.filter(|(_, found)| found.is_dir()).max_by_key(|(_, found)| found.modified().ok())
}

/// Returns the name of an attempt's folder, `CELL.N`, as reports name attempts.
fn readable(name: &str) -> String {
    name.rsplit_once('.').map_or_else(|| name.to_owned(), |(cell, attempt)| format!("{cell} #{attempt}"))
}

impl GrowingFile {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new() }
    }

    /// Returns the values that were written since the last call, one per line. Other lines are left out.
    fn read<T: DeserializeOwned + Serialize>(&mut self) -> Vec<T> {
        self.read_lines().unwrap_or_else(|_| {
            // The next check tries again, from the beginning of the line.
            self.rest.clear();
            Vec::new()
        })
    }

    fn read_lines<T: DeserializeOwned + Serialize>(&mut self) -> io::Result<Vec<T>> {
        if self.file.is_none() {
            match open_file(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.take(MOST_READ).read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            if self.rest.len() as u64 >= MOST_READ {
                self.rest.clear();
            }
            return Ok(Vec::new());
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        let lines = lines.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| from_json(line).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::hub::{Known, News};
    use std::{
        io::Write,
        sync::{Arc, LazyLock},
    };

    const LINE: &str = concat!(
        r#"{"at_ms":50.0,"status":"active","transferred_bytes":7,"remaining_bytes":9,"normal_pages":0,"#,
        r#""zero_pages":0,"pass":1,"dirty_rate_bytes_per_s":3,"mbit_per_s":1.5,"throttle_percent":0}"#
    );

    /// A time after all that the tests write.
    static SOON: LazyLock<SystemTime> = LazyLock::new(|| SystemTime::now() + Duration::from_secs(3600));

    /// Writes a file so that it is newer than all others, regardless of the clock's resolution.
    fn write(path: &Path, text: &str, age_s: u64) {
        fs::write(path, text).unwrap();
        set_age(path, age_s);
    }

    fn set_age(path: &Path, age_s: u64) {
        let time = *SOON - Duration::from_secs(age_s);
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn an_attempt_that_begins_within_a_tick_of_the_clock_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let attempts = folder.path().join("attempts");
        fs::create_dir(&attempts).unwrap();
        let hub = Hub::new(folder.path());
        let mut follower = Follower::new(folder.path());
        follower.read_folder(&hub);
        let before = fs::metadata(&attempts).unwrap().modified().unwrap();
        fs::create_dir(attempts.join("a.1")).unwrap();
        File::open(&attempts).unwrap().set_modified(before).unwrap();
        follower.read_folder(&hub);
        let begun = News::Attempt { name: Some("a #1".into()) };
        assert!(hub.news(&mut Known::default()).contains(&begun));
    }

    /// The samples and the record are written between two checks.
    #[tokio::test(start_paused = true)]
    async fn viewers_get_the_last_samples_of_an_attempt_that_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let attempt = folder.path().join("attempts/a.1");
        fs::create_dir_all(&attempt).unwrap();
        write(&folder.path().join(store::CELLS), "", 50);
        set_age(&attempt, 40);
        let hub = Arc::new(Hub::new(folder.path()));
        let (mut changes, path, of_viewer) = (hub.join(), folder.path().to_owned(), Arc::clone(&hub));
        let viewer = tokio::spawn(async move {
            let (mut known, mut seen) = (Known::default(), Vec::new());
            while seen.last() != Some(&News::End) {
                changes.changed().await.unwrap();
                let news = of_viewer.news(&mut known);
                if news.contains(&News::Attempt { name: Some("a #1".into()) }) {
                    fs::write(attempt.join(SAMPLES), format!("{LINE}\n")).unwrap();
                    write(&path.join(store::CELLS), "a record\n", 30);
                    of_viewer.request_end();
                }
                seen.extend(news.into_iter().filter(|news| !matches!(news, News::Page { .. })));
            }
            seen
        });
        let seen = tokio::select! {
            () = follow(Follower::new(folder.path()), &hub) => unreachable!("it follows for ever"),
            seen = viewer => seen.unwrap(),
        };
        let [begun, News::Samples { points }, News::Attempt { name: None }, News::End] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!((begun, points.len()), (&News::Attempt { name: Some("a #1".into()) }, 1));
    }

    /// The record may be written at any moment of a check, so there are many trials.
    #[test]
    fn the_news_of_a_record_comes_before_that_of_the_end_of_its_attempt() {
        for trial in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let (cells, attempts) = (folder.path().join(store::CELLS), folder.path().join("attempts"));
            fs::create_dir_all(attempts.join("a.1")).unwrap();
            write(&cells, "", 7200);
            set_age(&attempts.join("a.1"), 7000);
            let hub = Hub::new(folder.path());
            let (mut follower, mut known) = (Follower::new(folder.path()), Known::default());
            follower.read_folder(&hub);
            assert!(hub.news(&mut known).contains(&News::Attempt { name: Some("a #1".into()) }));
            let writer = std::thread::spawn(move || fs::write(cells, "a record\n").unwrap());
            let first = loop {
                follower.read_folder(&hub);
                if let Some(first) = hub.news(&mut known).into_iter().next() {
                    break first;
                }
            };
            assert!(matches!(first, News::Page { .. }), "trial {trial}: {first:?}");
            writer.join().unwrap();
        }
    }

    #[test]
    fn the_attempt_in_progress_is_followed_to_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let attempts = folder.path().join("attempts");
        fs::create_dir_all(attempts.join("a.1")).unwrap();
        write(&folder.path().join(store::CELLS), "", 50);
        set_age(&attempts.join("a.1"), 40);
        set_age(&attempts, 40);
        let hub = Hub::new(folder.path());
        let (mut follower, mut known) = (Follower::new(folder.path()), Known::default());
        let mut news = |hub: &Hub| {
            follower.read_attempt(hub);
            follower.read_folder(hub);
            let is_other = |news: &News| !matches!(news, News::Page { .. });
            hub.news(&mut known).into_iter().filter(is_other).collect::<Vec<_>>()
        };
        assert_eq!(news(&hub), [News::Attempt { name: Some("a #1".into()) }]);

        // An incomplete line is read once it is complete.
        let mut samples = File::create(attempts.join("a.1").join(SAMPLES)).unwrap();
        let cut = LINE.len() / 2;
        samples.write_all(&LINE.as_bytes()[..cut]).unwrap();
        assert_eq!(news(&hub), []);
        samples.write_all(format!("{}\nnonsense\n{LINE}\n", &LINE[cut..]).as_bytes()).unwrap();
        let point = [50.0, 9.0, 7.0, 1.5, 3.0, 0.0, 1.0].map(Some);
        assert_eq!(news(&hub), [News::Samples { points: vec![point; 2] }]);
        // QEMU has no dirty rate at first, which is not a rate of 0.
        let early = LINE.replace("\"dirty_rate_bytes_per_s\":3", "\"dirty_rate_bytes_per_s\":0");
        samples.write_all(format!("{early}\n").as_bytes()).unwrap();
        let json = serde_json::to_string(&news(&hub)).unwrap();
        assert_eq!(json, r#"[{"kind":"samples","points":[[50.0,9.0,7.0,1.5,null,0.0,1.0]]}]"#);

        // What the probe sees, among lines that it would never write: without a request, with more losses
        // than requests, out of range, of another kind, and cut off.
        let window = r#"{"at_ms":-7.5,"duration_ms":50.0,"requests":5,"unanswered":5,"a newer field":[{}]}"#;
        let none = window.replace("5,\"unanswered\":5", "0,\"unanswered\":0");
        let more = window.replace("\"unanswered\":5", "\"unanswered\":6");
        let huge = window.replace("-7.5", "1e999");
        let mut windows = File::create(attempts.join("a.1").join(LIVE_PROBE)).unwrap();
        let text = format!("{none}\n{more}\n{huge}\n{LINE}\n\0\n{window}\n{}", &window[..30]);
        windows.write_all(text.as_bytes()).unwrap();
        let lost = [Some(-7.5), Some(50.0), Some(5.0), Some(5.0), None, None];
        assert_eq!(news(&hub), [News::Client { windows: vec![lost] }]);
        windows.write_all(&window.as_bytes()[30..]).unwrap();
        assert_eq!(news(&hub), []);
        windows.write_all(b"\n").unwrap();
        assert_eq!(news(&hub), [News::Client { windows: vec![lost] }]);

        write(&folder.path().join(store::CELLS), "{}\n", 20);
        assert_eq!(news(&hub), [News::Attempt { name: None }]);
        fs::create_dir(attempts.join("b.1")).unwrap();
        set_age(&attempts.join("b.1"), 10);
        set_age(&attempts, 10);
        assert_eq!(news(&hub), [News::Attempt { name: Some("b #1".into()) }]);
    }

    #[test]
    fn a_record_makes_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let before = version(folder.path());
        write(&folder.path().join(store::CELLS), "{}\n", 9);
        let after = version(folder.path());
        assert_ne!(before, after);
        assert_eq!(after, version(folder.path()));
        write(&folder.path().join(store::ENVIRONMENT), "{}", 9);
        assert_ne!(after, version(folder.path()));
    }
}
