//! The log of the test's steps: name, duration and whether the step failed. Each step is appended to
//! `steps.csv` as soon as it has ended.

use crate::TaskError;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

/// The name of the log, in the folder of the test's results.
const FILE: &str = "steps.csv";

/// The log of steps.
pub(super) struct Log {
    file: File,
}

impl Log {
    /// Creates the log, or opens it to append to it.
    pub(super) fn open(out: &Path) -> Result<Self, TaskError> {
        let path = out.join(FILE);
        let open = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
            if file.metadata()?.len() == 0 {
                writeln!(file, "step,seconds")?;
            }
            Ok::<_, std::io::Error>(file)
        };
        let file = open().map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self { file })
    }

    /// Appends a step that has ended, with its duration in seconds.
    pub(super) fn note(&mut self, name: &str, took: Duration) -> Result<(), TaskError> {
        let line = format!("\"{}\",{:.1}\n", name.replace('"', "'"), took.as_secs_f64());
        self.file.write_all(line.as_bytes()).map_err(|error| format!("cannot write {FILE}: {error}").into())
    }

    /// Runs a step, reports it on standard error, and appends it to the log.
    pub(super) fn step<T>(
        &mut self,
        name: &str,
        step: impl FnOnce() -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        frontend::tell(format!("\n== {name}"));
        let since = Instant::now();
        let result = step();
        let took = since.elapsed();
        let ended = if result.is_ok() { "done" } else { "FAILED" };
        frontend::tell(format!("== {ended} in {:.1} s: {name}", took.as_secs_f64()));
        self.note(&if result.is_ok() { name.to_owned() } else { format!("{name}: failed") }, took)?;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_step_is_logged_when_it_has_ended() {
        let out = std::env::temp_dir().join(format!("xtask-steps-{}", std::process::id()));
        fs::create_dir_all(&out).unwrap();
        let written = || fs::read_to_string(out.join(FILE)).unwrap();
        let Ok(mut log) = Log::open(&out) else { panic!("no log") };
        log.note("one", Duration::from_millis(1540)).ok().unwrap();
        assert_eq!(written(), "step,seconds\n\"one\",1.5\n");
        let Ok(mut log) = Log::open(&out) else { panic!("no log") };
        assert!(log.step("two, three", || Ok(())).is_ok());
        assert!(log.step("four", || Err::<(), _>(TaskError::AlreadyReported(3))).is_err());
        assert_eq!(written(), "step,seconds\n\"one\",1.5\n\"two, three\",0.0\n\"four: failed\",0.0\n");
        fs::remove_dir_all(&out).unwrap();
    }
}
