//! The samples of an attempt: QEMU's reports on the state of the migration, one per line of `samples.jsonl`.

use super::{
    format,
    store::{self, Error},
};
use crate::measure::samples::Sample;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The name of the file with the samples, in the attempt's folder.
pub const SAMPLES: &str = "samples.jsonl";

/// Reads the samples of an attempt of the run in `folder`, in order. Returns nothing if the attempt ended
/// before its migration started. A last line that was cut off is ignored.
pub fn read(folder: &Path, cell: &str, attempt: u32) -> Result<Option<Vec<Sample>>, Error> {
    read_lines(store::attempt_path(folder, cell, attempt).join(SAMPLES))
}

/// Reads a file with one JSON value per line. Returns nothing if there is no such file. A last line that was
/// cut off is ignored.
pub(super) fn read_lines<T: DeserializeOwned + Serialize>(path: PathBuf) -> Result<Option<Vec<T>>, Error> {
    let text = match store::read_lines(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { what: "read", path, source }),
    };
    let value = |(i, line): (usize, &str)| {
        format::from_json(line.as_bytes()).map_err(|error| Error::BadRecord {
            path: path.clone(),
            line: i + 1,
            reason: error.to_string(),
        })
    };
    text.lines().enumerate().map(value).collect::<Result<_, _>>().map(Some)
}

/// Writes values to a new file in an attempt's folder, one JSON value per line.
pub(super) fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> io::Result<()> {
    let mut lines = Vec::new();
    for value in values {
        serde_json::to_writer(&mut lines, value)?;
        lines.push(b'\n');
    }
    File::create_new(path)?.write_all(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::samples::MemoryProgress;
    use std::fs;

    fn sample(at_ms: f64, pass: u64) -> Sample {
        Sample {
            disk: None,
            at_ms,
            status: "active".into(),
            memory: (pass > 0).then_some(MemoryProgress {
                transferred_bytes: 1_000_000,
                remaining_bytes: 2_000_000,
                normal_pages: 240,
                zero_pages: 3,
                pass,
                dirty_rate_bytes_per_s: 64_000_000,
                mbit_per_s: 934.5,
                ..MemoryProgress::default()
            }),
            throttle_percent: 0,
        }
    }

    #[test]
    fn samples_are_read_back_as_written_without_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = store::attempt_path(folder.path(), "stress.rate=1MBps", 2);
        assert_eq!(read(folder.path(), "stress.rate=1MBps", 2).unwrap(), None);
        fs::create_dir_all(&path).unwrap();
        let samples = [sample(0.25, 0), sample(50.0, 1), sample(100.125, 2)];
        let lines: String = samples.iter().map(|s| serde_json::to_string(s).unwrap() + "\n").collect();
        let cut_off = [lines.as_bytes(), b"{\"at_ms\":150.0,\"status\":\"\xc3"].concat();
        fs::write(path.join(SAMPLES), cut_off).unwrap();
        assert_eq!(read(folder.path(), "stress.rate=1MBps", 2).unwrap().unwrap(), samples);

        fs::write(path.join(SAMPLES), format!("{lines}{{}}\n")).unwrap();
        let error = read(folder.path(), "stress.rate=1MBps", 2).unwrap_err().to_string();
        assert!(error.contains("samples.jsonl, line 4: missing field `at_ms`"), "{error}");
    }
}
