//! The results folder of one run, and how it is read and written.
//!
//! Each record is appended to `cells.jsonl` with a single write and synced before the next attempt starts, so
//! a run can be killed at any time and continued: a line that was cut off is dropped when the folder is
//! opened again, and its attempt is repeated. A lock on `cells.jsonl` ensures that only one run at a time
//! uses a folder.

use super::{environment::Environment, format, record::Record};
use crate::{matrix::selection::Selection, outcome::Outcome};
use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// The name of the matrix file that is run.
pub const MATRIX: &str = "matrix.yaml";
/// The name of the file that says which part of the matrix is run.
pub const SELECTION: &str = "selection.json";
/// The name of the file that describes the run's environment.
pub const ENVIRONMENT: &str = "environment.json";
/// The name of the file with the records, one per line.
pub const CELLS: &str = "cells.jsonl";
/// The name of the file with the summary of the records, as CSV.
pub const SUMMARY: &str = "summary.csv";

/// An error creating, reading or writing a results folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder that was to be created already exists.
    #[error(
        "the results folder {0} already exists: continue its run with --resume, or choose another folder \
         with --out"
    )]
    Exists(PathBuf),
    /// The folder contains no matrix, so it is not a results folder.
    #[error("{0} is not a results folder: it has no {MATRIX}")]
    NotResults(PathBuf),
    /// Another run holds the lock on the folder.
    #[error("another run is writing to {0}")]
    InUse(PathBuf),
    /// A line of the records or samples is invalid.
    #[error("{path}, line {line}: {reason}")]
    BadRecord {
        /// The path of the file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// Why the line is invalid.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
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
    cells: File,
    records: Vec<Record>,
}

impl Drop for Store {
    /// Releases the lock explicitly. Closing the file would not be enough: a child process that is just being
    /// started has inherited the descriptor, and with it the lock.
    fn drop(&mut self) {
        // This can only fail for a file without a lock.
        let _ = self.cells.unlock();
    }
}

impl Store {
    /// Creates a new folder for a run of this selection of the matrix, and locks it.
    pub fn create(folder: &Path, matrix: &str, selection: &Selection) -> Result<Self, Error> {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(doing("make the folder", parent))?;
        }
        match fs::create_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(folder.into())),
            made => made.map_err(doing("make the folder", folder))?,
        }
        write_json(&folder.join(SELECTION), selection)?;
        let path = folder.join(MATRIX);
        fs::write(&path, matrix).map_err(doing("write", &path))?;
        Self::open(folder)
    }

    /// Opens a folder to continue its run, locks it, and drops a last line that was cut off.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        require_matrix(folder)?;
        let path = folder.join(CELLS);
        let mut cells = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .map_err(doing("open", &path))?;
        match cells.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(folder.into())),
            Err(TryLockError::Error(source)) => return Err(doing("lock", &path)(source)),
            Ok(()) => {}
        }
        let mut text = String::new();
        cells.read_to_string(&mut text).map_err(doing("read", &path))?;
        let whole = whole_lines(&text);
        let records = parse(whole, &path)?;
        if whole.len() < text.len() {
            cells.set_len(whole.len() as u64).map_err(doing("drop the cut-off end of", &path))?;
            cells.seek(io::SeekFrom::End(0)).map_err(doing("read", &path))?;
        }
        Ok(Self { folder: folder.into(), cells, records })
    }

    /// Returns the path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns all records so far, in the order in which they were made, including interrupted attempts.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns whether this attempt has a result. An interrupted attempt has none.
    pub fn has(&self, cell: &str, attempt: u32) -> bool {
        let made = |r: &Record| r.cell == cell && r.attempt == attempt && r.outcome != Outcome::Interrupted;
        self.records.iter().any(made)
    }

    /// Appends a record and syncs it to the disk.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        let path = self.folder.join(CELLS);
        let mut line = serde_json::to_vec(&record).map_err(|e| doing("write", &path)(e.into()))?;
        line.push(b'\n');
        self.cells.write_all(&line).map_err(doing("write", &path))?;
        self.cells.sync_data().map_err(doing("sync", &path))?;
        self.records.push(record);
        Ok(())
    }

    /// Creates an empty folder for an attempt's samples and logs, and removes an earlier one of the same
    /// attempt.
    pub fn attempt_folder(&self, cell: &str, attempt: u32) -> Result<PathBuf, Error> {
        let folder = attempt_path(&self.folder, cell, attempt);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(doing("empty", &folder)(e)),
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(doing("make the folder", &folder))?;
        Ok(folder)
    }

    /// Removes the folder if it has no records and no environment, because the run failed before it could
    /// write any. Returns whether the folder was removed.
    pub fn remove_if_empty(&self) -> Result<bool, Error> {
        if !self.records.is_empty() || self.folder.join(ENVIRONMENT).exists() {
            return Ok(false);
        }
        for name in [CELLS, MATRIX, SELECTION] {
            let path = self.folder.join(name);
            fs::remove_file(&path).map_err(doing("remove", &path))?;
        }
        fs::remove_dir(&self.folder).map_err(doing("remove", &self.folder))?;
        Ok(true)
    }

    /// Writes the environment of the run, replacing an earlier one.
    pub fn write_environment(&self, environment: &Environment) -> Result<(), Error> {
        write_json(&self.folder.join(ENVIRONMENT), environment)
    }

    /// Writes the summary of all records, replacing an earlier one.
    pub fn write_summary(&self, csv: &str) -> Result<(), Error> {
        let path = self.folder.join(SUMMARY);
        fs::write(&path, csv).map_err(doing("write", &path))
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| doing("write", path)(e.into()))?;
    text.push('\n');
    fs::write(path, text).map_err(doing("write", path))
}

/// Reads which part of its matrix a run selects. Returns the whole matrix if the folder does not say.
pub fn selection(folder: &Path) -> Result<Selection, Error> {
    let path = folder.join(SELECTION);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| doing("read", &path)(e.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Selection::default()),
        Err(error) => Err(doing("read", &path)(error)),
    }
}

/// Requires that a folder has a matrix. A folder that cannot be looked into may have one.
fn require_matrix(folder: &Path) -> Result<(), Error> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let matrix = folder.join(MATRIX);
    match fs::metadata(&matrix) {
        Ok(found) if found.is_file() => Ok(()),
        Err(error) if !matches!(error.kind(), NotFound | NotADirectory) => Err(doing("read", &matrix)(error)),
        _ => Err(Error::NotResults(folder.into())),
    }
}

/// Reads the matrix and the records of a run that is finished or in progress.
pub fn read(folder: &Path) -> Result<(String, Vec<Record>), Error> {
    let matrix = folder.join(MATRIX);
    require_matrix(folder)?;
    let matrix_text = fs::read_to_string(&matrix).map_err(doing("read", &matrix))?;
    let path = folder.join(CELLS);
    let text = fs::read_to_string(&path).map_err(doing("read", &path))?;
    Ok((matrix_text, parse(whole_lines(&text), &path)?))
}

/// Reads the environment of a run. Returns nothing if the run has not written it yet.
pub fn environment(folder: &Path) -> Result<Option<Environment>, Error> {
    let path = folder.join(ENVIRONMENT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(doing("read", &path)(error)),
    };
    let environment = format::read(&text, |environment: &Environment| environment.format);
    environment.map(Some).map_err(|error| doing("read", &path)(io::Error::other(error)))
}

/// Returns the path of the folder for an attempt's samples and logs. It exists once the attempt has started.
pub fn attempt_path(folder: &Path, cell: &str, attempt: u32) -> PathBuf {
    folder.join("attempts").join(format!("{}.{attempt}", file_name(cell)))
}

/// Returns the text without a last line that was cut off.
pub(super) fn whole_lines(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |end| end + 1)]
}

fn parse(text: &str, path: &Path) -> Result<Vec<Record>, Error> {
    let record = |(i, line): (usize, &str)| {
        format::read(line, |record: &Record| record.format).map_err(|error| Error::BadRecord {
            path: path.into(),
            line: i + 1,
            reason: error.to_string(),
        })
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
        results::builder::RecordBuilder,
    };

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
    fn a_line_that_was_cut_off_is_removed_before_the_next_record_is_appended() {
        let (_parent, mut store) = store();
        let (plan, folder) = (plan(), store.folder().to_path_buf());
        let record = |n| RecordBuilder::start().freeze(&plan.cells[0], n, Outcome::Converged, None);
        store.append(record(1)).unwrap();
        store.cells.write_all(b"{\"cell\":\"stress.rate=1MBps\",\"att").unwrap();
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
