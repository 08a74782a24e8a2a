//! The results folder of one run.
//!
//! A record is appended to `cells.jsonl` with a single write and synced before the run goes on, so a run can
//! be killed at any moment and continued: a line that was cut off is dropped when the folder is opened again,
//! and its attempt is made again. One run at a time has a folder, which a lock on `cells.jsonl` sees to.

use super::{environment::Environment, format, record::Record};
use crate::{matrix::selection::Selection, outcome::Outcome};
use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// The matrix file as run.
pub const MATRIX: &str = "matrix.yaml";
/// Which part of the matrix is run.
pub const SELECTION: &str = "selection.json";
/// What it ran on.
pub const ENVIRONMENT: &str = "environment.json";
/// One record a line.
pub const CELLS: &str = "cells.jsonl";
/// The short form.
pub const SUMMARY: &str = "summary.csv";

/// Why a results folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is there already.
    #[error(
        "the results folder {0} exists already: continue that run with --resume, or name another with --out"
    )]
    Exists(PathBuf),
    /// It is not a results folder.
    #[error("{0} is not a results folder: it has no {MATRIX}")]
    NotResults(PathBuf),
    /// Another run is using it.
    #[error("another run is writing to {0}")]
    InUse(PathBuf),
    /// A record in it makes no sense.
    #[error("{path}, line {line}: {reason}")]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The system said no.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Adds what was attempted on what to a system error.
fn doing(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, path: path.into(), source }
}

/// A results folder that this run may write to.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    cells: File,
    records: Vec<Record>,
}

impl Drop for Store {
    /// Releases the folder now. A program that is about to be started has the descriptor too, and with it the
    /// lock.
    fn drop(&mut self) {
        // It can only fail for a file without a lock.
        let _ = self.cells.unlock();
    }
}

impl Store {
    /// Makes a new folder for a run of this part of this matrix.
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

    /// Opens a folder to continue its run. Interrupted attempts do not count as made.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        if !folder.join(MATRIX).is_file() {
            return Err(Error::NotResults(folder.into()));
        }
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

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All records so far, in the order they were made, interrupted ones included.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether this attempt has a result.
    pub fn has(&self, cell: &str, attempt: u32) -> bool {
        let made = |r: &Record| r.cell == cell && r.attempt == attempt && r.outcome != Outcome::Interrupted;
        self.records.iter().any(made)
    }

    /// Appends a record; it is on the disk when this returns.
    pub fn append(&mut self, record: Record) -> Result<(), Error> {
        let path = self.folder.join(CELLS);
        let mut line = serde_json::to_vec(&record).map_err(|e| doing("write", &path)(e.into()))?;
        line.push(b'\n');
        self.cells.write_all(&line).map_err(doing("write", &path))?;
        self.cells.sync_data().map_err(doing("sync", &path))?;
        self.records.push(record);
        Ok(())
    }

    /// Makes the folder for an attempt's samples and logs, empty.
    pub fn attempt_folder(&self, cell: &str, attempt: u32) -> Result<PathBuf, Error> {
        let folder = attempt_path(&self.folder, cell, attempt);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(doing("empty", &folder)(e)),
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(doing("make the folder", &folder))?;
        Ok(folder)
    }

    /// Removes the folder if the run did not get far enough to record anything in it, not even what it runs
    /// on. Returns whether it was removed.
    pub fn withdraw(&self) -> Result<bool, Error> {
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

    /// Writes down what the run runs on.
    pub fn write_environment(&self, environment: &Environment) -> Result<(), Error> {
        write_json(&self.folder.join(ENVIRONMENT), environment)
    }

    /// Writes the short form of all records.
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

/// Reads which part of its matrix a run makes; all of it, where the folder does not say.
pub fn selection(folder: &Path) -> Result<Selection, Error> {
    let path = folder.join(SELECTION);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| doing("read", &path)(e.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Selection::default()),
        Err(error) => Err(doing("read", &path)(error)),
    }
}

/// Reads the records of a finished or a running run, and the matrix it ran.
pub fn read(folder: &Path) -> Result<(String, Vec<Record>), Error> {
    let matrix = folder.join(MATRIX);
    if !matrix.is_file() {
        return Err(Error::NotResults(folder.into()));
    }
    let matrix_text = fs::read_to_string(&matrix).map_err(doing("read", &matrix))?;
    let path = folder.join(CELLS);
    let text = fs::read_to_string(&path).map_err(doing("read", &path))?;
    Ok((matrix_text, parse(whole_lines(&text), &path)?))
}

/// Reads what a run runs on; nothing, where it has not come that far.
pub fn environment(folder: &Path) -> Result<Option<Environment>, Error> {
    let path = folder.join(ENVIRONMENT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(doing("read", &path)(error)),
    };
    let environment = format::read(&text, |environment: &Environment| environment.format);
    environment.map(Some).map_err(|problem| doing("read", &path)(io::Error::other(problem)))
}

/// Returns the folder of an attempt's samples and logs. It is there once the attempt has begun.
pub fn attempt_path(folder: &Path, cell: &str, attempt: u32) -> PathBuf {
    folder.join("attempts").join(format!("{}.{attempt}", file_name(cell)))
}

/// Returns the text without a last line that was cut off.
pub(super) fn whole_lines(text: &str) -> &str {
    &text[..text.rfind('\n').map_or(0, |end| end + 1)]
}

fn parse(text: &str, path: &Path) -> Result<Vec<Record>, Error> {
    let record = |(i, line): (usize, &str)| {
        format::read(line, |record: &Record| record.format).map_err(|problem| Error::BadRecord {
            path: path.into(),
            line: i + 1,
            reason: problem.to_string(),
        })
    };
    text.lines().enumerate().map(record).collect()
}

/// A cell's identity as a file name.
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
    fn an_attempt_counts_as_made_unless_it_was_interrupted() {
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
    fn what_was_cut_off_is_gone_from_the_file_and_appending_goes_on_there() {
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
    fn an_attempts_folder_is_its_own_and_empty() {
        let (_parent, store) = store();
        let folder = store.attempt_folder("stress.rate=1MBps,link.delay=1ms", 2).unwrap();
        assert_eq!(folder, store.folder().join("attempts/stress.rate=1MBps-link.delay=1ms.2"));
        fs::write(folder.join("source.log"), "").unwrap();
        fs::create_dir(folder.join("more")).unwrap();
        let again = store.attempt_folder("stress.rate=1MBps,link.delay=1ms", 2).unwrap();
        assert_eq!((&again, fs::read_dir(&again).unwrap().count()), (&folder, 0));
    }

    #[test]
    fn a_run_that_did_not_begin_leaves_no_folder_and_one_that_did_keeps_it() {
        let (parent, unbegun) = store();
        assert!(unbegun.withdraw().unwrap());
        assert_eq!(fs::read_dir(parent.path().join("a")).unwrap().count(), 0);
        let (_parent, mut begun) = store();
        let record = RecordBuilder::start().freeze(&plan().cells[0], 1, Outcome::Failed, None);
        begun.append(record).unwrap();
        assert!(!begun.withdraw().unwrap());
        assert_eq!(read(begun.folder()).unwrap().1.len(), 1);
    }

    #[test]
    fn no_cell_leaves_the_folder() {
        for cell in ["../../etc/passwd", "a/b", "ä b\n", "guest.cpu=max,+x"] {
            let name = file_name(cell);
            assert!(!name.contains('/') && name.is_ascii() && !name.contains('\n'), "{name}");
        }
    }
}
