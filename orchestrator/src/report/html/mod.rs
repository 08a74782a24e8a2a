//! The report as a single, self-contained HTML page: it needs no network and no other file.
//!
//! The page is static and complete without its script, except for functions that need one: sorting,
//! filtering, zooming, reading values off a curve. Its style and its script are part of it, and its content
//! security policy allows these two by their hashes and nothing else, so that no text from a matrix, a guest
//! or QEMU can run or load anything, whatever it contains.
//!
//! Each section is a file with a function from a `View` to a `Section`, and an entry in `SECTIONS`.
//! `chart` draws with plotters, on a backend of its own: the charts follow the reader's colors through style
//! classes, each mark can be focused and has a text, and curves keep the numbers of the records as their
//! coordinates, from which the script reads values and makes tables.
//!
//! A page has at most [`MOST_BYTES`]. If it would be larger, timelines are compressed and curves thinned
//! further; the page says what is left out.

#![allow(clippy::unnecessary_wraps, reason = "every section has the same signature")]

use super::{FinishedRun, Format, RenderedReport};
use crate::results::parts::Run;
use frontend::Text;
use maud::{Markup, html};
use std::io;
use timeline::Curves;
use view::View;

mod answer;
mod attempts;
pub(super) mod chart;
mod document;
mod downtime;
mod environment;
mod heat_map;
mod matrix;
mod notes;
mod pack;
mod repeat;
mod table;
mod threshold;
mod timeline;
mod view;

/// The largest size of a page in bytes, if leaving out points and curves can achieve it.
pub const MOST_BYTES: usize = 3_000_000;

/// The sections of a run, in the order of the page. A section without content returns nothing.
const SECTIONS: &[fn(&View<'_>, Detail) -> Option<Section>] = &[
    answer::section,
    threshold::section,
    matrix::section,
    heat_map::section,
    downtime::section,
    attempts::section,
    environment::section,
    notes::section,
    repeat::section,
];

/// A section of the page.
struct Section {
    /// Its identifier in the page's address, unique within a run.
    id: &'static str,
    /// Its heading.
    title: &'static str,
    /// What is below the heading.
    body: Markup,
}

/// How much of each curve a page shows, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Detail {
    /// The largest number of points of a curve. With 0, timelines are left out.
    points: usize,
    /// Whether timelines are compressed, so that only the script can show them.
    is_packed: bool,
}

/// The details to try, until a page is small enough.
const DETAILS: [Detail; 8] = [
    Detail { points: 800, is_packed: false },
    Detail { points: 800, is_packed: true },
    Detail { points: 400, is_packed: true },
    Detail { points: 200, is_packed: true },
    Detail { points: 100, is_packed: true },
    Detail { points: 50, is_packed: true },
    Detail { points: 20, is_packed: true },
    Detail { points: 0, is_packed: false },
];

/// Whether the runs on a page have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage<'a> {
    /// They have ended, or are shown in their current state.
    Ended,
    /// They are in progress, and a server serves the page.
    Running {
        /// A script that keeps the page up to date. It may connect to the server that the page comes from.
        script: &'a str,
    },
}

/// Returns the page of these runs, at least one.
pub fn page(runs: &[Run], stage: Stage<'_>) -> String {
    let views = runs.iter().enumerate().map(|(i, run)| View::of_run(run, i + 1, stage));
    of_views(&views.collect::<Vec<_>>(), stage)
}

/// The format `html`.
pub(super) struct Html;

impl Format for Html {
    fn finished(&self, run: &FinishedRun<'_>) -> io::Result<RenderedReport> {
        Ok(of_views(&[View::of_finished(run)], Stage::Ended).into())
    }

    fn stored(&self, runs: &[Run]) -> io::Result<RenderedReport> {
        Ok(page(runs, Stage::Ended).into())
    }
}

fn of_views(views: &[View<'_>], stage: Stage<'_>) -> String {
    let mut last = String::new();
    let longest = views.iter().flat_map(|view| &view.curves).map(Curves::most_points).max().unwrap_or(0);
    let mut tried = None;
    for detail in DETAILS {
        // A limit that no curve reaches does not change anything.
        let shown = (detail.points.min(longest), detail.is_packed);
        if tried.replace(shown) == Some(shown) {
            continue;
        }
        last = document::document(views, &body(views, detail), stage);
        if last.len() <= MOST_BYTES {
            break;
        }
    }
    // Invisible characters, such as those that change the direction of writing, are made visible.
    Text::from(last).to_string()
}

/// Returns everything between the page's head and its end.
fn body(views: &[View<'_>], detail: Detail) -> Markup {
    html! {
        @for view in views {
            article id=(view.id("run")) {
                header {
                    h1 id=(view.id("name")) { (view.plan.name) }
                    @if let Some(description) = &view.plan.description {
                        p.description { (description) }
                    }
                }
                @for section in SECTIONS.iter().filter_map(|section| section(view, detail)) {
                    @let heading = view.id(&format!("{}-heading", section.id));
                    // Several runs have sections with the same name.
                    @let name = if views.len() > 1 { format!(" {}", view.id("name")) } else { String::new() };
                    section id=(view.id(section.id)) aria-labelledby={ (heading) (name) } {
                        h2 id=(heading) { (section.title) }
                        (section.body)
                    }
                }
            }
        }
    }
}
