//! The traces that a matrix names, and the places from which they are read.
//!
//! A trace is found relative to the matrix file. A results folder keeps the text of each, under the path
//! given in the matrix, so that a run can be continued and reported wherever its folder is.

use super::{
    File,
    diagnostic::{Diagnostics, KeyPath},
    settings::{Settings, TraceFile},
    yaml::{DiagnosticSink, Location},
};
use crate::bounded::read_text_file;
use netem::trace::{TraceError, TraceRate};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// The largest size of all traces of a matrix together, in bytes. A trace in Mahimahi's format has six bytes
/// for each 1500 of the link.
const MAX_BYTES: usize = 16 << 20;

/// The texts of traces, by their paths in the matrix.
pub type TraceTexts = BTreeMap<String, String>;

/// Where the traces of a matrix are read from.
#[derive(Debug)]
pub struct Traces {
    source: Source,
    texts: TraceTexts,
}

#[derive(Debug)]
enum Source {
    /// Files, relative to this folder.
    Folder(PathBuf),
    /// Only traces that have already been stored.
    Kept,
}

impl Traces {
    /// Reads traces from files beside a matrix file, or below the current folder for standard input.
    pub fn beside(matrix: &Path) -> Self {
        let folder = matrix.parent().unwrap_or(Path::new("")).into();
        Self { source: Source::Folder(folder), texts: TraceTexts::new() }
    }

    /// Uses the traces stored in a results folder.
    pub fn kept(texts: TraceTexts) -> Self {
        Self { source: Source::Kept, texts }
    }

    /// Returns the texts that have been read so far.
    pub fn texts(&self) -> &TraceTexts {
        &self.texts
    }

    /// Returns the text of a trace.
    fn read(&mut self, path: &str) -> Result<String, String> {
        if let Some(text) = self.texts.get(path) {
            return Ok(text.clone());
        }
        let Source::Folder(folder) = &self.source else {
            return Err("the results folder has not kept it".into());
        };
        let used: usize = self.texts.values().map(String::len).sum();
        let text = read_text_file(&folder.join(path), MAX_BYTES - used).map_err(|error| {
            if error.kind() == io::ErrorKind::FileTooLarge {
                format!("the traces of a matrix must not exceed {} MiB together", MAX_BYTES >> 20)
            } else {
                error.to_string()
            }
        })?;
        self.texts.insert(path.into(), text.clone());
        Ok(text)
    }
}

impl File {
    /// Returns whether a setting names a trace.
    pub(super) fn has_traces(&self) -> bool {
        let named = |settings: &Settings| settings.link.trace.is_some() || settings.stress.trace.is_some();
        let overrides = self.axes.iter().flat_map(|axis| &axis.values).chain(&self.include);
        named(&self.settings) || overrides.into_iter().any(|overrides| named(&overrides.values))
    }

    /// Returns the file with the content of all traces that its settings name.
    ///
    /// # Errors
    ///
    /// Fails for each trace that cannot be read or is invalid.
    pub(super) fn with_traces(&self, traces: &mut Traces) -> Result<Self, Diagnostics> {
        let mut file = self.clone();
        let document = self.document.clone();
        let mut loader = Loader { traces, sink: DiagnosticSink::new(&document) };
        loader.settings(&mut file.settings, |path| KeyPath::root().dotted(path));
        let overrides = file.axes.iter_mut().flat_map(|axis| &mut axis.values).chain(&mut file.include);
        for overrides in overrides {
            let assignments = &overrides.assignments;
            let at = |path: &str| {
                let assignment = assignments.iter().find(|assignment| assignment.setting.path() == path);
                assignment.map_or_else(KeyPath::root, |assignment| assignment.at.clone())
            };
            loader.settings(&mut overrides.values, at);
        }
        loader.sink.finish(file)
    }
}

/// Reads the traces of settings.
struct Loader<'a> {
    traces: &'a mut Traces,
    sink: DiagnosticSink<'a>,
}

impl Loader<'_> {
    /// Reads the traces of these settings. `at` returns the path at which a setting is written.
    fn settings(&mut self, settings: &mut Settings, at: impl Fn(&str) -> KeyPath) {
        self.trace(settings.link.trace.as_mut(), || at("link.trace"));
        self.trace(settings.stress.trace.as_mut(), || at("stress.trace"));
    }

    fn trace<R: TraceRate>(&mut self, file: Option<&mut TraceFile<R>>, at: impl FnOnce() -> KeyPath) {
        let Some(file) = file else { return };
        let path = file.path().to_owned();
        let (message, help) = match self.traces.read(&path) {
            Err(reason) => {
                let help = "write its path relative to the matrix file";
                (format!("cannot read the trace {path}: {reason}"), help)
            }
            Ok(text) => match file.set_text(&text) {
                Ok(()) => return,
                Err(TraceError { line, problem }) => {
                    (format!("{path}, line {line}: {problem}"), "correct this line of the trace")
                }
            },
        };
        self.sink.push(&Location::Value(at()), message, Some(help.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Plan;
    use std::fs;

    fn plan(text: &str, traces: &mut Traces) -> Result<Plan, String> {
        let file = File::parse(text, "n").map_err(|error| error.to_string())?;
        file.expand_with(traces).map_err(|error| error.to_string())
    }

    #[test]
    fn traces_are_read_beside_the_matrix_and_kept_under_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("traces")).unwrap();
        fs::write(folder.path().join("traces/link"), "0s 40mbit\n2s 12mbit\n6s end\n").unwrap();
        fs::write(folder.path().join("load"), "0s 8MB/s\n1s 4MB/s\n2s end\n").unwrap();
        let text = "name: n\nlink: { trace: traces/link }\nstress: { working_set: 4MB }\n\
                    migrate: { timeout: 3s }\naxes: { stress.trace: [none, load] }\n";
        let mut traces = Traces::beside(&folder.path().join("matrix.yaml"));
        let read = plan(text, &mut traces).unwrap();
        assert_eq!(traces.texts().keys().collect::<Vec<_>>(), ["load", "traces/link"]);
        let settings = &read.cells[1].settings;
        assert_eq!(settings.link.at_start().rate.unwrap().to_string(), "40mbit");
        assert_eq!(settings.workload().rate.to_string(), "8MB/s");
        let steps: Vec<String> = settings.steps().iter().map(|step| step.at.to_string()).collect();
        assert_eq!(steps, ["1s", "2s"], "the load's first change, then both");
        let kept = plan(text, &mut Traces::kept(traces.texts().clone())).unwrap();
        assert_eq!((read.digest(), &read), (kept.digest(), &kept));

        fs::write(folder.path().join("load"), "0s 8MB/s\n2s end\n").unwrap();
        let other = plan(text, &mut Traces::beside(&folder.path().join("matrix.yaml"))).unwrap();
        assert_ne!(other.digest(), read.digest());
        let changes = read.changes_to(&other).invalidating;
        assert_eq!(changes, ["stress.trace: the content of load has changed in stress.trace=load"]);
    }

    #[test]
    fn what_cannot_be_read_is_said_where_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(folder.path().join("bad"), "0s 40mbit\n2s 12\n6s end\n").unwrap();
        fs::write(folder.path().join("binary"), b"\xff").unwrap();
        for (path, says) in [
            ("absent", "cannot read the trace absent: No such file or directory"),
            ("pipe", "cannot read the trace pipe: it is not a regular file"),
            (".", "cannot read the trace .: it is not a regular file"),
            ("/dev/zero", "cannot read the trace /dev/zero: it is not a regular file"),
            ("bad", "bad, line 2: `12` has no unit"),
            ("binary", "cannot read the trace binary: stream did not contain valid UTF-8"),
        ] {
            let text = format!("name: n\naxes:\n  link.trace: [{path}]\n");
            let error = plan(&text, &mut Traces::beside(&folder.path().join("m"))).unwrap_err();
            assert!(error.contains(says) && error.contains("n:3:16"), "{error}");
        }
        let error =
            plan("name: n\nstress: { trace: t }\n", &mut Traces::kept(TraceTexts::new())).unwrap_err();
        assert!(error.contains("the results folder has not kept it"), "{error}");
    }

    #[test]
    fn all_traces_together_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let big = fs::File::create(folder.path().join("big")).unwrap();
        big.set_len(MAX_BYTES as u64 + 1).unwrap();
        let text = "name: n\nlink: { trace: big }\n";
        let error = plan(text, &mut Traces::beside(&folder.path().join("m"))).unwrap_err();
        assert!(error.contains("must not exceed 16 MiB together"), "{error}");
    }
}
