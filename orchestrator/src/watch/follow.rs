//! Follows a run through its results folder.
//!
//! The attempt in progress is the one whose folder was begun after the last record was written. Its samples
//! are read as they are appended to their file.

use super::hub::{Hub, Point, point};
use crate::{
    measure::samples::Sample,
    results::{samples::SAMPLES, store},
};
use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often the folder is looked at while somebody watches. A page shows a sample at most this much later.
const INTERVAL: Duration = Duration::from_millis(100);
/// The largest part of the samples that is read at once, in bytes.
const MOST_READ: u64 = 4 << 20;

/// Follows the folder and tells the hub, for ever.
pub(super) async fn follow(mut follower: Follower, hub: &Hub) {
    loop {
        hub.viewer().await;
        // What was written before the end was requested is seen by the look after it.
        let is_ending = hub.is_ending();
        follower.look(hub);
        if is_ending {
            hub.end();
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the version of the report that the folder makes: a text that differs if the report may.
pub(super) fn version(folder: &Path) -> String {
    let of = |name: &str| {
        let found = fs::metadata(folder.join(name)).ok();
        found.map_or_else(String::new, |found| {
            format!("{}.{}.{:09}", found.len(), found.mtime(), found.mtime_nsec())
        })
    };
    [store::CELLS, store::ENVIRONMENT].map(of).join("-")
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
    /// The number of its folder's inode. An attempt that is made again has another folder of the same name.
    inode: u64,
    samples: Option<File>,
    /// The beginning of a line that is not complete yet.
    rest: Vec<u8>,
}

impl Follower {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), version: String::new(), attempt: None, changed: [None; 2] }
    }

    /// Looks at the folder once.
    pub(super) fn look(&mut self, hub: &Hub) {
        // The last samples of an attempt come before its record.
        if let Some(points) = self.attempt.as_mut().map(FollowedAttempt::read).filter(|p| !p.is_empty()) {
            hub.add(points);
        }
        let version = version(&self.folder);
        if version != self.version {
            self.version.clone_from(&version);
            hub.set_version(version);
        }
        let attempts = self.folder.join("attempts");
        let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        let changed = [modified(&self.folder.join(store::CELLS)), modified(&attempts)];
        if changed != self.changed {
            self.changed = changed;
            let current = newest(&attempts).filter(|(_, found)| found.modified().ok() >= changed[0]);
            let known = self.attempt.as_ref().map(|attempt| (attempt.path.clone(), attempt.inode));
            let found = current.map(|(path, found)| (path, found.ino()));
            if found != known {
                let name = found.as_ref().and_then(|(path, _)| path.file_name());
                hub.set_attempt(name.map(|name| readable(&name.to_string_lossy())));
                self.attempt = found.map(|(path, inode)| FollowedAttempt {
                    path,
                    inode,
                    samples: None,
                    rest: Vec::new(),
                });
            }
        }
    }
}

/// Returns the folder in this one that changed last.
fn newest(folder: &Path) -> Option<(PathBuf, Metadata)> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let folders = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    folders.filter(|(_, found)| found.is_dir()).max_by_key(|(_, found)| found.modified().ok())
}

/// Returns the name of an attempt's folder, `CELL.N`, as reports name attempts.
fn readable(name: &str) -> String {
    name.rsplit_once('.').map_or_else(|| name.to_owned(), |(cell, attempt)| format!("{cell} #{attempt}"))
}

impl FollowedAttempt {
    /// Returns the samples since the last call. Lines that are not samples are left out.
    fn read(&mut self) -> Vec<Point> {
        let mut points = Vec::new();
        if self.read_lines(&mut points).is_err() {
            // The next look tries again, from the beginning of the line.
            self.rest.clear();
        }
        points
    }

    fn read_lines(&mut self, points: &mut Vec<Point>) -> io::Result<()> {
        if self.samples.is_none() {
            match File::open(self.path.join(SAMPLES)) {
                Ok(file) => self.samples = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.samples else { return Ok(()) };
        file.take(MOST_READ).read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        let samples = lines.split(|byte| *byte == b'\n');
        points.extend(samples.filter_map(|line| point(&serde_json::from_slice::<Sample>(line).ok()?)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::hub::{Known, News};
    use std::io::Write;

    const LINE: &str = concat!(
        r#"{"at_ms":50.0,"status":"active","transferred_bytes":7,"remaining_bytes":9,"normal_pages":0,"#,
        r#""zero_pages":0,"pass":1,"dirty_rate_bytes_per_s":3,"mbit_per_s":1.5,"throttle_percent":0}"#
    );

    /// Writes a file so that it is newer than every other, whatever the clock's steps.
    fn write(path: &Path, text: &str, age_s: u64) {
        fs::write(path, text).unwrap();
        set_age(path, age_s);
    }

    fn set_age(path: &Path, age_s: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 - age_s);
        File::open(path).unwrap().set_modified(time).unwrap();
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
            follower.look(hub);
            let is_other = |news: &News| !matches!(news, News::Page { .. });
            hub.news(&mut known).into_iter().filter(is_other).collect::<Vec<_>>()
        };
        assert_eq!(news(&hub), [News::Attempt { name: Some("a #1".into()) }]);

        // A line that is not complete yet is read with its end.
        let mut samples = File::create(attempts.join("a.1").join(SAMPLES)).unwrap();
        let cut = LINE.len() / 2;
        samples.write_all(&LINE.as_bytes()[..cut]).unwrap();
        assert_eq!(news(&hub), []);
        samples.write_all(format!("{}\nnonsense\n{LINE}\n", &LINE[cut..]).as_bytes()).unwrap();
        let point = [50.0, 9.0, 7.0, 1.5, 3.0, 0.0, 1.0];
        assert_eq!(news(&hub), [News::Samples { points: vec![point; 2] }]);

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
