//! The results folder of one run, and how it is read and written.
//!
//! Each record is appended to `cells.jsonl` with a single write and synced before the next attempt starts, so
//! a run can be killed at any time and continued: a line that was cut off is dropped when the folder is
//! opened again, and its attempt is repeated. An attempt that failed for lack of disk space is repeated too;
//! its record stays in the file, but counts only until there is another one. A lock on `cells.jsonl` ensures
//! that only one run at a time uses a folder.
//!
//! The matrix is the last file that a new folder gets, and it appears as a whole. So a run whose folder has a
//! matrix can be continued; a folder without one was left by a killed run, and a new run may use it.

use super::{environment::Environment, format, record::Record};
use crate::{
    bounded::{self, FILE_BYTES},
    matrix::{TraceTexts, selection::Selection},
};
use frontend::one_line;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    mem,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The name of the matrix file that is run.
pub const MATRIX: &str = "matrix.yaml";
/// The name of the file with the traces that the matrix names: their texts by their paths. Absent if it names
/// none.
pub const TRACES: &str = "traces.json";
/// The name of the file that says which part of the matrix is run.
pub const SELECTION: &str = "selection.json";
/// The name of the file that describes the run's environment.
pub const ENVIRONMENT: &str = "environment.json";
/// The name of the file with the records, one per line.
pub const CELLS: &str = "cells.jsonl";
/// The largest size of the file with the traces, in bytes. JSON needs two bytes for the end of a line.
const TRACES_BYTES: usize = 64 << 20;
/// The largest size of a file with records or with an attempt's samples, in bytes. A record has some KiB.
pub(crate) const LINES_BYTES: usize = 512 << 20;
/// The name of the file with the summary of the records, as CSV.
pub const SUMMARY: &str = "summary.csv";

/// The name of the file with the report as a page for a browser.
pub const REPORT: &str = "report.html";

/// An error creating, reading or writing a results folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder to be created already has the results of a run.
    #[error(
        "the results folder {0} already exists: continue its run with --resume, or choose another folder \
         with --out"
    )]
    Exists(PathBuf),
    /// A folder to be created has other files.
    #[error("the folder {0} is not empty: choose a new or an empty folder with --out")]
    NotEmpty(PathBuf),
    /// The folder contains no matrix, so it is not a results folder.
    #[error("{0} is not a results folder: it has no {MATRIX}")]
    NotResults(PathBuf),
    /// Another run holds the lock on the folder.
    #[error("another run is writing to {0}")]
    InUse(PathBuf),
    /// A line of the records or samples is invalid.
    #[error("{path}, line {line}: {}", one_line(reason))]
    BadRecord {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// Why the line is invalid.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {}", one_line(&source.to_string()))]
    Io {
        /// The operation, as a verb phrase before the path.
        what: &'static str,
        /// The path of the file or folder.
        path: PathBuf,
        /// The cause of the failure.
        source: io::Error,
    },
}

/// Returns a function that adds the operation and the path to a system error.
fn doing(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.into(), source }
}

/// A results folder that this process has locked and may write to.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Whether this process created the folder, as opposed to finding it.
    made: bool,
    cells: File,
    records: Vec<Record>,
    version: Option<String>,
}

impl Drop for Store {
    /// Releases the lock explicitly. Closing the file would not be enough: a child process that is just being
    /// started may have inherited the descriptor, and with it the lock.
    fn drop(&mut self) {
        // This can only fail for a file without a lock.
        let _ = self.cells.unlock();
    }
}

impl Store {
    /// Creates a folder for a run of a matrix without traces, as [`Store::create_with`] does.
    pub fn create(folder: &Path, matrix: &str, selection: &Selection) -> Result<Self, Error> {
        Self::create_with(folder, matrix, &TraceTexts::new(), selection)
    }

    /// Creates a folder for a run of this selection of the matrix, which names these traces, or uses an
    /// existing empty folder, and locks it. If that fails, nothing is left in it.
    pub fn create_with(
        folder: &Path,
        matrix: &str,
        traces: &TraceTexts,
        selection: &Selection,
    ) -> Result<Self, Error> {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(doing("make the folder", parent))?;
        }
        let made = match fs::create_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            made => made.map(|()| true).map_err(doing("make the folder", folder))?,
        };
        if !made {
            check_unused(folder)?;
        }
        // If two runs use the same folder, only one can lock this file.
        let cells = match lock_cells(folder) {
            Err(Error::InUse(_)) => return Err(Error::Exists(folder.into())),
            locked => locked?,
        };
        if folder.join(MATRIX).exists() {
            return Err(Error::Exists(folder.into()));
        }
        let fill = || {
            write_json(&folder.join(SELECTION), selection)?;
            if !traces.is_empty() {
                write_json(&folder.join(TRACES), traces)?;
            }
            write_whole(&folder.join(MATRIX), matrix)
        };
        if let Err(error) = fill() {
            // The first error explains the failure.
            let _ = remove_files(folder, made);
            return Err(error);
        }
        Ok(Self { folder: folder.into(), made, cells, records: Vec::new(), version: None })
    }

    /// Opens a folder to continue its run, locks it, and drops a last line that was cut off.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        require_matrix(folder)?;
        let path = folder.join(CELLS);
        let cells = lock_cells(folder)?;
        let text = bounded::read_all(&cells, LINES_BYTES, "the file").map_err(doing("read", &path))?;
        let length = text.len();
        let whole = whole_lines(text).map_err(doing("read", &path))?;
        let records = that_count(parse(&whole, &path)?);
        if whole.len() < length {
            cells.set_len(whole.len() as u64).map_err(doing("drop the cut-off end of", &path))?;
        }
        Ok(Self { folder: folder.into(), made: false, cells, records, version: None })
    }

    /// Returns the path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the records so far, in the order in which they were made, including interrupted attempts. The
    /// last one is not on the disk if it could not be written.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns whether this attempt has a result. An interrupted attempt has none, and neither does one that
    /// failed for lack of disk space.
    pub fn has(&self, cell: &str, attempt: u32) -> bool {
        self.records.iter().any(|r| r.cell == cell && r.attempt == attempt && r.is_result())
    }

    /// Sets the version of the program that further records name.
    pub fn set_version(&mut self, version: &str) {
        self.version = Some(version.to_owned());
    }

    /// Appends a record and syncs it to the disk. A record that cannot be written is kept in memory so that
    /// it is shown, and no part of it is left in the file.
    pub fn append(&mut self, mut record: Record) -> Result<(), Error> {
        record.version.clone_from(&self.version);
        let path = self.folder.join(CELLS);
        let line = serde_json::to_vec(&record).map_err(|e| doing("write", &path)(e.into()));
        self.records.push(record);
        self.records = that_count(mem::take(&mut self.records));
        let mut line = line?;
        line.push(b'\n');
        let end = self.cells.metadata().map_err(doing("read", &path))?.len();
        if let Err(error) = self.cells.write_all(&line) {
            let _ = self.cells.set_len(end);
            return Err(doing("write", &path)(error));
        }
        self.cells.sync_data().map_err(doing("sync", &path))
    }

    /// Creates an empty folder for an attempt's samples and logs, and removes an earlier folder of the same
    /// attempt.
    pub fn attempt_folder(&self, cell: &str, attempt: u32) -> Result<PathBuf, Error> {
        let folder = attempt_path(&self.folder, cell, attempt);
        unless_absent(fs::remove_dir_all(&folder)).map_err(doing("empty", &folder))?;
        fs::create_dir_all(&folder).map_err(doing("make the folder", &folder))?;
        Ok(folder)
    }

    /// Removes what the run wrote if it has no records and no environment, because it failed before it could
    /// write any, and also the folder if the run created it. Returns whether anything was removed.
    pub fn remove_if_empty(&self) -> Result<bool, Error> {
        if !self.records.is_empty() || self.folder.join(ENVIRONMENT).exists() {
            return Ok(false);
        }
        remove_files(&self.folder, self.made)?;
        Ok(true)
    }

    /// Writes the environment of the run, replacing an earlier one.
    pub fn write_environment(&self, environment: &Environment) -> Result<(), Error> {
        write_json(&self.folder.join(ENVIRONMENT), environment)
    }

    /// Writes the summary of all records, replacing an earlier one.
    pub fn write_summary(&self, csv: &str) -> Result<(), Error> {
        write_whole(&self.folder.join(SUMMARY), csv)
    }

    /// Writes the report on all records, replacing an earlier one.
    pub fn write_report(&self, html: &str) -> Result<(), Error> {
        write_whole(&self.folder.join(REPORT), html)
    }
}

/// Opens the records of a folder, creates them if there are none, and locks them. A symbolic link in their
/// place is refused: whoever made the folder would choose what this run writes to.
fn lock_cells(folder: &Path) -> Result<File, Error> {
    let path = folder.join(CELLS);
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let cells = options.open(&path).and_then(bounded::regular).map_err(doing("open", &path))?;
    match cells.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(Error::InUse(folder.into())),
        Err(TryLockError::Error(source)) => return Err(doing("lock", &path)(source)),
        Ok(()) => {}
    }
    // A run that has meanwhile ended without results has removed the file.
    let same = |found: fs::Metadata| Ok(found.ino() == cells.metadata()?.ino());
    if fs::metadata(&path).and_then(same).unwrap_or(false) {
        Ok(cells)
    } else {
        Err(Error::InUse(folder.into()))
    }
}

/// Fails if the folder exists and has any entries, other than the one that every new file system has, and the
/// files of a run that was killed while it created the folder.
fn check_unused(folder: &Path) -> Result<(), Error> {
    let unfinished = [
        CELLS.into(),
        SELECTION.into(),
        TRACES.into(),
        part(SELECTION.as_ref()),
        part(TRACES.as_ref()),
        part(MATRIX.as_ref()),
    ];
    let entries = fs::read_dir(folder).map_err(doing("read the folder", folder))?;
    for entry in entries {
        let name = entry.map_err(doing("read the folder", folder))?.file_name();
        if name != "lost+found" && !unfinished.iter().any(|file| file.as_os_str() == name) {
            let is_run = folder.join(MATRIX).is_file();
            return Err(if is_run { Error::Exists(folder.into()) } else { Error::NotEmpty(folder.into()) });
        }
    }
    // Records without a matrix are somebody's results.
    let has_records = fs::metadata(folder.join(CELLS)).is_ok_and(|cells| cells.len() > 0);
    if has_records { Err(Error::NotEmpty(folder.into())) } else { Ok(()) }
}

/// Removes the files of a run that has no results, and its folder if `made` is set.
fn remove_files(folder: &Path, made: bool) -> Result<(), Error> {
    for name in [CELLS, MATRIX, TRACES, SELECTION] {
        let path = folder.join(name);
        unless_absent(fs::remove_file(&path)).map_err(doing("remove", &path))?;
    }
    if made {
        fs::remove_dir(folder).map_err(doing("remove", folder))?;
    }
    Ok(())
}

/// Returns the result of removing something, for which it is no error that nothing was there.
fn unless_absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Returns the records without those that a later record of the same attempt supersedes.
fn that_count(records: Vec<Record>) -> Vec<Record> {
    let mut later = HashSet::new();
    let mut counting: Vec<Record> = Vec::with_capacity(records.len());
    for record in records.into_iter().rev() {
        let is_last = later.insert((record.cell.clone(), record.attempt));
        if is_last || !record.lacked_disk() {
            counting.push(record);
        }
    }
    counting.reverse();
    counting
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| doing("write", path)(e.into()))?;
    text.push('\n');
    write_whole(path, &text)
}

/// Writes a file that appears as a whole. If it cannot be written completely, an earlier one stays. What is
/// in the place of the part is removed, not written to: it may be a symbolic link.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let part = part(path);
    let write = || {
        unless_absent(fs::remove_file(&part))?;
        File::create_new(&part)?.write_all(text.as_bytes())?;
        fs::rename(&part, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&part);
        doing("write", path)(error)
    })
}

/// Returns the path under which a file is written before it gets its name.
fn part(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// Reads a file that a folder need not have.
fn read_optional(path: &Path, limit: usize) -> Result<Option<String>, Error> {
    match bounded::read_text_file(path, limit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(doing("read", path)),
    }
}

/// Reads a file with a JSON value that a folder need not have. Without the file, it is the default value.
fn read_json<T: DeserializeOwned + Default>(path: &Path, limit: usize) -> Result<T, Error> {
    let Some(text) = read_optional(path, limit)? else { return Ok(T::default()) };
    serde_json::from_str(&text).map_err(|e| doing("read", path)(e.into()))
}

/// Reads which part of its matrix a run selects. Returns the whole matrix if the folder does not say.
pub fn selection(folder: &Path) -> Result<Selection, Error> {
    read_json(&folder.join(SELECTION), FILE_BYTES)
}

/// Reads the traces that a run's matrix names. Returns none if the folder has none.
pub fn traces(folder: &Path) -> Result<TraceTexts, Error> {
    read_json(&folder.join(TRACES), TRACES_BYTES)
}

/// Requires that a folder has a matrix. A folder that cannot be read may have one.
fn require_matrix(folder: &Path) -> Result<(), Error> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let matrix = folder.join(MATRIX);
    match fs::metadata(&matrix) {
        Ok(found) if found.is_file() => Ok(()),
        Err(error) if !matches!(error.kind(), NotFound | NotADirectory) => Err(doing("read", &matrix)(error)),
        _ => Err(Error::NotResults(folder.into())),
    }
}

/// Reads the matrix of a run.
pub fn matrix(folder: &Path) -> Result<String, Error> {
    require_matrix(folder)?;
    let path = folder.join(MATRIX);
    bounded::read_text_file(&path, FILE_BYTES).map_err(doing("read", &path))
}

/// Reads the matrix and the records of a finished run or a run in progress.
pub fn read(folder: &Path) -> Result<(String, Vec<Record>), Error> {
    let matrix = matrix(folder)?;
    let path = folder.join(CELLS);
    let text = read_lines(&path).map_err(doing("read", &path))?;
    Ok((matrix, that_count(parse(&text, &path)?)))
}

/// Reads the environment of a run. Returns nothing if the run has not written it yet.
pub fn environment(folder: &Path) -> Result<Option<Environment>, Error> {
    let path = folder.join(ENVIRONMENT);
    let Some(text) = read_optional(&path, FILE_BYTES)? else { return Ok(None) };
    let environment = format::read(&text, |environment: &Environment| environment.format);
    environment.map(Some).map_err(|error| doing("read", &path)(io::Error::other(error)))
}

/// Returns the path of the folder for an attempt's samples and logs. It exists once the attempt has started.
pub fn attempt_path(folder: &Path, cell: &str, attempt: u32) -> PathBuf {
    folder.join("attempts").join(format!("{}.{attempt}", file_name(cell)))
}

/// Reads the lines of a file of records or samples, without a last one that was cut off.
pub(super) fn read_lines(path: &Path) -> io::Result<String> {
    bounded::read_file(path, LINES_BYTES).and_then(whole_lines)
}

/// Returns the lines of a file, without a last line that was cut off, perhaps within a character. Fails if
/// the other lines are not UTF-8.
fn whole_lines(mut text: Vec<u8>) -> io::Result<String> {
    text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    String::from_utf8(text).map_err(io::Error::other)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Record>, Error> {
    let record = |(i, line): (usize, &str)| {
        let read = format::read(line, |record: &Record| record.format);
        let mut record = read.map_err(|error| Error::BadRecord {
            path: path.into(),
            line: i + 1,
            reason: error.to_string(),
        })?;
        record.revise();
        Ok(record)
    };
    text.lines().enumerate().map(record).collect()
}

/// Returns a cell's identifier as a file name: all characters but letters, digits and `._=-` become `-`.
fn file_name(cell: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._=-".contains(c) { c } else { '-' };
    cell.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matrix::{File, Plan},
        outcome::Outcome,
        results::builder::RecordBuilder,
    };
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use std::os::unix::fs::symlink;

    const MATRIX: &str = "name: n\naxes: { stress.rate: [1MB/s, 2MB/s] }\n";

    fn plan() -> Plan {
        File::parse(MATRIX, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn store() -> (tempfile::TempDir, Store) {
        let parent = tempfile::tempdir().unwrap();
        let store = Store::create(&parent.path().join("a/b"), MATRIX, &Selection::default()).unwrap();
        (parent, store)
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let (_parent, mut store) = store();
        let plan = plan();
        let mut record =
            RecordBuilder::start().freeze(&plan.cells[1], 3, Outcome::Failed, Some("two\nlines".into()));
        record.measured.downtime_ms.guest = Some(63.125);
        store.append(record.clone()).unwrap();
        let (matrix, records) = read(store.folder()).unwrap();
        assert_eq!(matrix, MATRIX);
        assert_eq!(records, [record]);
        assert_eq!(fs::read_to_string(store.folder().join(CELLS)).unwrap().lines().count(), 1);
    }

    #[test]
    fn an_attempt_has_a_result_unless_it_was_interrupted() {
        let (_parent, mut store) = store();
        let plan = plan();
        let cell = &plan.cells[0];
        for outcome in Outcome::ALL {
            assert!(!store.has(&cell.id, 1));
            store.append(RecordBuilder::start().freeze(cell, 1, outcome, None)).unwrap();
            assert_eq!(store.has(&cell.id, 1), outcome != Outcome::Interrupted, "{outcome}");
            assert!(!store.has(&cell.id, 2) && !store.has(&plan.cells[1].id, 1));
            store.records.clear();
        }
    }

    #[test]
    fn an_attempt_that_lacked_disk_has_no_result_and_its_record_counts_until_there_is_one() {
        let (_parent, mut store) = store();
        let (plan, folder) = (plan(), store.folder().to_path_buf());
        let cell = &plan.cells[0];
        let failed =
            |reason: &str| RecordBuilder::start().freeze(cell, 1, Outcome::Failed, Some(reason.to_string()));
        for reason in [
            "cannot write attempts/x/samples.jsonl: No space left on device (os error 28)",
            "QEMU could not save the booted guest to its node's /run/testbed (it gives no reason): cat: \
             write error: No space left on device",
            "cannot write attempts/x/samples.jsonl: Disk quota exceeded (os error 122)",
            "cannot write attempts/x/samples.jsonl: Quota exceeded (os error 122)",
        ] {
            store.append(failed(reason)).unwrap();
            assert!(!store.has(&cell.id, 1), "{reason}");
            assert_eq!(store.records().len(), 1, "each takes the place of the one before");
        }
        // The words alone do not make it a failure.
        let not_converged = Some("No space left on device".into());
        let result = RecordBuilder::start().freeze(cell, 1, Outcome::NotConverged, not_converged);
        store.append(result.clone()).unwrap();
        assert!(store.has(&cell.id, 1));
        assert_eq!(store.records(), std::slice::from_ref(&result));
        drop(store);
        assert_eq!(read(&folder).unwrap().1, [result]);
        assert_eq!(fs::read_to_string(folder.join(CELLS)).unwrap().lines().count(), 5, "nothing is erased");
        let mut store = Store::open(&folder).unwrap();
        store.append(failed("the guest's kernel panicked")).unwrap();
        assert_eq!(store.records().len(), 2, "any other failure is a result");
    }

    #[test]
    fn a_record_that_cannot_be_written_is_still_shown() {
        let (_parent, mut store) = store();
        store.cells = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let record = RecordBuilder::start().freeze(&plan().cells[0], 1, Outcome::Converged, None);
        let error = store.append(record.clone()).unwrap_err().to_string();
        assert!(error.ends_with("cells.jsonl: No space left on device (os error 28)"), "{error}");
        assert_eq!(store.records(), [record]);
    }

    #[test]
    fn an_empty_folder_is_taken_and_outlives_a_run_without_results() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("mounted");
        // A new file system has this folder.
        fs::create_dir_all(folder.join("lost+found")).unwrap();
        let create = || Store::create(&folder, MATRIX, &Selection::default());
        let store = create().unwrap();
        assert_eq!(selection(&folder).unwrap(), Selection::default());
        let second = create().unwrap_err().to_string();
        assert!(second.contains("already exists: continue its run with --resume"), "{second}");
        assert!(store.remove_if_empty().unwrap());
        drop(store);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only what was there before");
        create().unwrap();

        // A run that was killed earlier leaves a folder without a matrix and without records.
        for file in [super::MATRIX, SELECTION] {
            fs::rename(folder.join(file), part(&folder.join(file))).unwrap();
        }
        let store = create().unwrap();
        assert_eq!(read(&folder).unwrap(), (MATRIX.into(), Vec::new()));
        drop(store);
        fs::remove_file(folder.join(super::MATRIX)).unwrap();
        fs::write(folder.join(CELLS), "{}\n").unwrap();
        let refused = create().unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "records without a matrix are kept: {refused}");

        for (name, is_folder) in [("notes.txt", false), (".git", true)] {
            let folder = parent.path().join(name.replace('.', "-"));
            let entry = folder.join(name);
            fs::create_dir_all(if is_folder { &entry } else { &folder }).unwrap();
            if !is_folder {
                fs::write(&entry, "").unwrap();
            }
            let refused = Store::create(&folder, MATRIX, &Selection::default()).unwrap_err().to_string();
            assert!(
                refused.ends_with("is not empty: choose a new or an empty folder with --out"),
                "{refused}"
            );
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        }
    }

    #[test]
    fn links_and_pipes_in_a_folder_are_neither_followed_nor_waited_for() {
        let (parent, mut store) = store();
        let folder = store.folder().to_path_buf();
        let victim = parent.path().join("victim");
        fs::write(&victim, "not a line").unwrap();
        let is_refused = |name: &str, why: &str, result: Result<(), Error>| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(why), "{error}");
        };
        // A part is replaced, and so is the file itself.
        for name in ["summary.part", SUMMARY, "report.part", REPORT, "environment.part", "selection.part"] {
            symlink(&victim, folder.join(name)).unwrap();
        }
        store.append(RecordBuilder::start().freeze(&plan().cells[0], 1, Outcome::Converged, None)).unwrap();
        store.write_summary("summary\n").unwrap();
        store.write_report("report\n").unwrap();
        assert_eq!(fs::read_to_string(folder.join(SUMMARY)).unwrap(), "summary\n");
        drop(store);
        for name in [super::MATRIX, SELECTION, CELLS, SUMMARY, REPORT] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        drop(Store::create(&folder, MATRIX, &Selection::default()).unwrap_err());
        fs::remove_file(folder.join("environment.part")).unwrap();
        drop(Store::create(&folder, MATRIX, &Selection::default()).unwrap());

        fs::remove_file(folder.join(CELLS)).unwrap();
        symlink(&victim, folder.join(CELLS)).unwrap();
        is_refused(CELLS, "symbolic link", Store::open(&folder).map(drop));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "not a line");

        fs::remove_file(folder.join(CELLS)).unwrap();
        mkfifo(&folder.join(CELLS), Mode::S_IRWXU).unwrap();
        is_refused(CELLS, "not a regular file", Store::open(&folder).map(drop));
        is_refused(CELLS, "not a regular file", read(&folder).map(drop));
        fs::remove_file(folder.join(SELECTION)).unwrap();
        symlink("/dev/zero", folder.join(SELECTION)).unwrap();
        is_refused(SELECTION, "not a regular file", selection(&folder).map(drop));
    }

    #[test]
    fn a_line_that_was_cut_off_is_removed_before_the_next_record_is_appended() {
        let (_parent, mut store) = store();
        let (plan, folder) = (plan(), store.folder().to_path_buf());
        let record = |n| RecordBuilder::start().freeze(&plan.cells[0], n, Outcome::Converged, None);
        store.append(record(1)).unwrap();
        // Cut within a character.
        store.cells.write_all(b"{\"cell\":\"stress.rate=1MBps\",\"reason\":\"\xc3").unwrap();
        assert_eq!(read(&folder).unwrap().1.len(), 1);
        drop(store);
        let mut store = Store::open(&folder).unwrap();
        assert_eq!(store.records().len(), 1);
        store.append(record(2)).unwrap();
        let attempts: Vec<u32> = read(&folder).unwrap().1.iter().map(|r| r.attempt).collect();
        assert_eq!(attempts, [1, 2]);
    }

    #[test]
    fn each_attempt_gets_an_empty_folder_of_its_own() {
        let (_parent, store) = store();
        let folder = store.attempt_folder("stress.rate=1MBps,link.delay=1ms", 2).unwrap();
        assert_eq!(folder, store.folder().join("attempts/stress.rate=1MBps-link.delay=1ms.2"));
        fs::write(folder.join("source.log"), "").unwrap();
        fs::create_dir(folder.join("more")).unwrap();
        let again = store.attempt_folder("stress.rate=1MBps,link.delay=1ms", 2).unwrap();
        assert_eq!((&again, fs::read_dir(&again).unwrap().count()), (&folder, 0));
    }

    #[test]
    fn only_the_folder_of_a_run_without_records_is_removed() {
        let (parent, empty) = store();
        assert!(empty.remove_if_empty().unwrap());
        assert_eq!(fs::read_dir(parent.path().join("a")).unwrap().count(), 0);
        let (_parent, mut store) = store();
        let record = RecordBuilder::start().freeze(&plan().cells[0], 1, Outcome::Failed, None);
        store.append(record).unwrap();
        assert!(!store.remove_if_empty().unwrap());
        assert_eq!(read(store.folder()).unwrap().1.len(), 1);
    }

    #[test]
    fn no_cell_name_points_outside_the_results_folder() {
        for cell in ["../../etc/passwd", "a/b", "ä b\n", "guest.cpu=max,+x"] {
            let name = file_name(cell);
            assert!(!name.contains('/') && name.is_ascii() && !name.contains('\n'), "{name}");
        }
    }
}
