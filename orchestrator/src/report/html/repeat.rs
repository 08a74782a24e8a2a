//! How to repeat the run, and how to cite it.

use super::{Detail, Section, view::View};
use crate::{
    bounded::read_file,
    layout::shell_word,
    matrix::{RunOrder, selection::Selection},
    results::store,
};
use maud::{Markup, html};
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, path::Path};

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let matrix = store::matrix(view.folders[0]).ok();
    let traces = store::traces(view.folders[0]).unwrap_or_default();
    let commands = view.folders.iter().map(|folder| command(&store::selection(folder).unwrap_or_default()));
    let commands: Vec<String> = commands.collect();
    let digests: Vec<(&Path, String)> =
        view.folders.iter().filter_map(|folder| Some((*folder, digest(folder)?))).collect();
    let environments = view.folders.iter().filter_map(|folder| store::environment(folder).ok().flatten());
    let environment = environments.min_by_key(|environment| environment.started_at);
    let body = html! {
        p { "Save the matrix below as " code { "matrix.yaml" } ", and run:" }
        (block("The command", &commands.join("\n")))
        p {
            @match view.plan.order {
                RunOrder::AsWritten => "The attempts are made in the order of the matrix.",
                RunOrder::Shuffled { seed } => { "The order is shuffled by the seed " (seed) "." },
            }
            " The seed of each workload is in the matrix (" code { "stress.seed" } ", 1 by default)."
            @if let Some(environment) = &environment {
                " Made by testbed " (environment.version) " with QEMU " (environment.qemu) "."
            }
        }
        @if let Some(matrix) = matrix {
            details {
                summary { "The matrix" }
                (block("The matrix", &matrix))
            }
        }
        @for (path, text) in &traces {
            details {
                summary { "The trace " code { (path) } ", to be saved beside the matrix" }
                (block(&format!("The trace {path}"), text))
            }
        }
        h3 { "Cite" }
        (block("Entry for BibTeX", &citation(view, environment.as_ref(), &digests)))
        @for (folder, digest) in &digests {
            p.digest { code { (folder.join(store::CELLS).display()) } ", SHA-256 " code { (digest) } }
        }
    };
    Some(Section { id: "repeat", title: "Repeat and cite", body })
}

/// Returns lines that are not wrapped, and that can be scrolled with a keyboard.
fn block(name: &str, text: &str) -> Markup {
    html! { pre tabindex="0" role="region" aria-label=(name) { code { (text) } } }
}

/// Returns the command that runs the same part of the matrix.
fn command(selection: &Selection) -> String {
    let mut command = "testbed run matrix.yaml".to_owned();
    if let Some(only) = &selection.only {
        let _ = write!(command, " --only {}", shell_word(only));
    }
    if let Some(repeat) = selection.repeat {
        let _ = write!(command, " --repeat {repeat}");
    }
    if let Some(shard) = &selection.shard {
        let _ = write!(command, " --shard {}", shell_word(shard));
    }
    command
}

/// Returns the digest of a folder's records in hexadecimal; nothing if they cannot be read.
fn digest(folder: &Path) -> Option<String> {
    let records = read_file(&folder.join(store::CELLS), store::LINES_BYTES).ok()?;
    Some(data_encoding::HEXLOWER.encode(&Sha256::digest(records)))
}

/// Returns a BibTeX entry.
fn citation(
    view: &View<'_>,
    environment: Option<&crate::results::environment::Environment>,
    digests: &[(&Path, String)],
) -> String {
    let started = view.records.iter().map(|record| record.started_at).min();
    let started = started.or(environment.map(|environment| environment.started_at));
    let date = started.map(|time| time.strftime("%Y-%m-%d").to_string());
    let name = &view.plan.name;
    let mut entry = format!("@misc{{{name},\n  title = {{Live migration: the run {name}}},\n");
    if let Some(date) = date {
        let _ = writeln!(entry, "  date = {{{date}}},");
    }
    let mut note = Vec::new();
    if let Some(environment) = environment {
        note.push(format!("testbed {}, QEMU {}", environment.version, environment.qemu));
    }
    if let [(_, digest)] = digests {
        note.push(format!("SHA-256 of the records {digest}"));
    }
    let _ = write!(entry, "  note = {{{}}},\n}}", note.join("; "));
    entry
}
