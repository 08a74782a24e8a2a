//! The timeline of an attempt: what happened, on one time axis in milliseconds since `migrate`.
//!
//! Each lane is an SVG whose plane has the units of the data. So the script zooms by changing the visible
//! part of the plane, and reads values off the curves. Events are in a layer over all lanes.
//!
//! Curves come from the samples of the attempt, the reports of its guest, and the observations of its probe.
//! Without them, as in runs that are stored without their `attempts` folder, curves come from the passes in
//! the record.

use super::chart::{
    Point,
    axis::{self, Axis},
    curve::{path, stairs, unit},
    svg::{Chart, FARTHEST, WIDTH, percent},
    thin::thin,
};
use crate::{
    measure::samples::Sample,
    results::{
        client::{self, ProbeWindow},
        record::{Measured, Phase, RateInterval, Record},
        samples, store,
        telemetry::{self, GuestReport},
    },
};
use maud::{Markup, html};
use plotters::coord::ranged1d::Ranged as _;
use std::{ops::Range, path::Path};

mod latency;

/// The shortest time over which a rate is computed, in milliseconds: two usual samples. QEMU sends in bursts,
/// and updates its counters irregularly.
const SHORTEST_MS: f64 = 90.0;

/// The largest number of rate changes that are listed as events. More of them are better shown by curves.
const MOST_CHANGES: usize = 40;

/// The value of one step on a logarithmic axis, in decades: a quarter of a percent.
const LOG_STEP: f64 = 0.001;

/// The name of the curve of the pass's number.
const PASS: &str = "pass";

/// The curves in the timeline of an attempt.
#[derive(Debug, Default)]
pub(super) struct Curves {
    lanes: Vec<Lane>,
    /// The time of the last sample.
    last_ms: Option<f64>,
    /// Why samples that exist are not drawn.
    pub(super) problem: Option<String>,
}

/// Curves with a common vertical axis.
#[derive(Debug)]
struct Lane {
    /// The quantities that it shows, with the unit.
    title: &'static str,
    curves: Vec<Curve>,
    /// Whether its axis is logarithmic. All values are then positive.
    is_log: bool,
}

/// A curve of a lane.
#[derive(Debug)]
struct Curve {
    name: &'static str,
    /// The class of its color and dashes.
    class: &'static str,
    points: Vec<Point>,
    /// Whether each value holds until the next.
    is_stairs: bool,
}

/// The data about an attempt besides its record.
#[derive(Default)]
struct Sources {
    samples: Vec<Sample>,
    reports: Vec<GuestReport>,
    windows: Vec<ProbeWindow>,
    /// Why a part of the data cannot be read.
    problem: Option<String>,
}

impl Sources {
    fn read(folder: &Path, cell: &str, attempt: u32) -> Self {
        let mut problem = None;
        Self {
            samples: known(samples::read(folder, cell, attempt), &mut problem),
            reports: known(telemetry::read(folder, cell, attempt), &mut problem),
            windows: known(client::read(folder, cell, attempt), &mut problem),
            problem,
        }
    }
}

/// Returns the data that was read, or nothing if it does not exist or cannot be read.
fn known<T>(read: Result<Option<Vec<T>>, store::Error>, problem: &mut Option<String>) -> Vec<T> {
    let values = read.unwrap_or_else(|error| {
        *problem = Some(error.to_string());
        None
    });
    values.unwrap_or_default()
}

impl Curves {
    /// Reads the samples of an attempt in a results folder. Those of an attempt that was made again are not
    /// kept (`has_files` is false): the files are those of the later one.
    pub(super) fn read(folder: &Path, record: &Record, has_files: bool) -> Self {
        let link = link_rate(&record.measured, || link_at_start(folder, record));
        let sources =
            if has_files { Sources::read(folder, &record.cell, record.attempt) } else { Sources::default() };
        Self::new(sources, &record.measured, link)
    }

    /// Reads the samples of an attempt that has no record yet.
    pub(super) fn in_progress(folder: &Path, cell: &str, attempt: u32) -> Self {
        let mut sources = Sources::read(folder, cell, attempt);
        if sources.windows.is_empty() {
            sources.windows = known(client::read_live(folder, cell, attempt), &mut sources.problem);
        }
        Self::new(sources, &Measured::default(), None)
    }

    fn new(sources: Sources, measured: &Measured, link: Option<Curve>) -> Self {
        let Sources { samples, reports, windows, problem } = sources;
        let is_known = samples.iter().any(|sample| sample.memory.is_some() || sample.disk.is_some());
        let mut rates = if is_known { rates(&samples) } else { rates_of_passes(measured) };
        rates.extend(dirty_rates(measured, &reports));
        rates.extend(link);
        let mut left = if is_known { remaining(&samples) } else { remaining_of_passes(measured) };
        left.push(pass_numbers(measured));
        let lanes = [
            Lane { title: "Memory left, MB", curves: left, is_log: false },
            Lane { title: "Rates, MB/s", curves: rates, is_log: false },
            Lane {
                title: "Throttling of the CPUs, %",
                curves: if is_known { throttle(&samples) } else { throttle_of_passes(measured) },
                is_log: false,
            },
        ];
        let is_drawn = |curve: &Curve| curve.points.iter().filter(|point| !point.y.is_nan()).count() > 1;
        let mut lanes: Vec<Lane> = lanes.into_iter().chain(latency::lanes(&reports, &windows)).collect();
        for lane in &mut lanes {
            lane.curves.retain(is_drawn);
        }
        lanes.retain(|lane| !lane.curves.is_empty());
        Self { lanes, last_ms: samples.last().map(|sample| sample.at_ms), problem }
    }

    /// Returns whether there is nothing to draw.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Returns the number of points of the longest curve.
    pub(super) fn most_points(&self) -> usize {
        self.lanes.iter().flat_map(|lane| &lane.curves).map(|curve| curve.points.len()).max().unwrap_or(0)
    }

    /// Returns the timeline of the attempt whose curves these are. `ended` is what the attempt has measured,
    /// if it has ended. Curves are thinned to about this many points. Returns nothing if the attempt did not
    /// get to its migration.
    pub(super) fn render(&self, ended: Option<&Measured>, points: usize) -> Markup {
        let so_far = Measured::default();
        let measured = ended.unwrap_or(&so_far);
        let phases = phases(measured);
        let migrated = phases.iter().find(|(phase, ..)| *phase == Phase::Migrate).map(|(_, _, to)| *to);
        let Some(end) = migrated.or(self.last_ms).filter(|end| *end > 0.0) else { return html! {} };
        let end = end.min(f64::from(FARTHEST));
        // Whole numbers, like everything on the time axis.
        let view = (-0.03 * end).floor()..(1.03 * end).ceil();
        let full = Range {
            start: phases.first().map_or(view.start, |(_, from, _)| from.min(view.start)),
            end: phases.last().map_or(view.end, |(.., to)| to.max(view.end)),
        };
        let named: Vec<_> = phases.iter().map(|(phase, from, to)| (word(*phase), *from, *to)).collect();
        let events = ended.map(|measured| events(measured, end)).unwrap_or_default();
        let window = |range: &Range<f64>| format!("{:.0} {:.0}", range.start, range.end);
        html! {
            div.timeline data-view=(window(&view)) data-full=(window(&full)) {
                div.lanes {
                    (bands(&view, "phases", &named))
                    (bands(&view, "disk", &disk(measured)))
                    (bands(&view, "file", &file(measured)))
                    @for lane in &self.lanes { (lane.render(&view, points)) }
                    (overlay(&view, measured, &events))
                }
                svg.ticks width="100%" height="40" aria-hidden="true" {
                    @for ms in Axis::from(view.clone()).key_points(6) {
                        text x=(place(&view, ms)) y="16" { (axis::text(ms / 1e3, 0)) }
                    }
                    text.title x="50%" y="36" { "s since the start of the migration" }
                }
                @if !events.is_empty() {
                    ol.events {
                        @for event in &events {
                            li { (format!("{:.3} s: ", event.at_ms / 1e3)) (event.text) }
                        }
                    }
                }
            }
        }
    }
}

impl Lane {
    /// Returns the curves that are drawn.
    fn drawn(&self) -> impl Iterator<Item = &Curve> {
        self.curves.iter().filter(|curve| curve.name != PASS)
    }

    /// Returns the range of the vertical axis, as logarithms if the axis is logarithmic, and its ticks.
    fn axis(&self) -> (Range<f64>, Vec<(f64, String)>) {
        let values = || self.drawn().flat_map(|curve| &curve.points).map(|point| point.y);
        let most = values().fold(0.0, f64::max);
        if self.is_log {
            let range = axis::decades(values().fold(most, f64::min), most);
            let ticks = axis::decade_ticks(&range);
            (range, ticks)
        } else {
            let most = if self.title.ends_with('%') { 100.0 } else { most * 1.02 };
            let range = axis::from_zero(most, 4);
            let ticks = axis::ticks(&range, 5);
            (range, ticks)
        }
    }

    fn render(&self, view: &Range<f64>, points: usize) -> Markup {
        let (range, ticks) = self.axis();
        let y = Axis::from(range.clone());
        html! {
            div.lane {
                b { (self.title) }
                @for curve in self.drawn() { span { i.key.(curve.class) {} (curve.name) } }
                div.plane {
                    svg.rules {
                        @for (value, text) in ticks.iter().filter(|(value, _)| *value > range.start) {
                            @let y = percent(y.map(value, (WIDTH, 0)));
                            line x1="0" x2="100%" y1=(y) y2=(y) {}
                            text x="-8" y=(y) { (text) }
                        }
                    }
                    (self.curves(view, &range, points))
                }
            }
        }
    }

    /// Returns the curves, on a plane with a step for each millisecond and each unit of the values.
    fn curves(&self, view: &Range<f64>, range: &Range<f64>, points: usize) -> Markup {
        let unit = if self.is_log { LOG_STEP } else { unit(range.end) };
        // plotters rounds down.
        let rounded = |range: &Range<f64>, step: f64| range.start - step / 2.0..range.end - step / 2.0;
        let steps = |range: &Range<f64>, step: f64| {
            (range.start / step).round() as i32..(range.end / step).round() as i32
        };
        let plane = (steps(view, 1.0), steps(range, unit));
        let (x, y) = &plane;
        let seen = format!("{} {} {} {}", x.start, -y.end, x.end - x.start, y.end - y.start);
        html! {
            svg.curves preserveAspectRatio="none" viewBox=(seen) {
                g transform="scale(1 -1)" {
                    (Chart::drawn(rounded(view, 1.0), rounded(range, unit), plane, |chart| {
                        for curve in &self.curves {
                            let own_unit = if curve.name == PASS { 1.0 } else { unit };
                            let value = |y: f64| if self.is_log { y.log10() } else { y * unit / own_unit };
                            let corners = curve.corners(points).into_iter();
                            let x = |ms: f64| ms.clamp(-f64::from(FARTHEST), f64::from(FARTHEST));
                            let corners: Vec<_> = corners.map(|point| (x(point.x), value(point.y))).collect();
                            chart.draw(&corners, |places| html! {
                                path.(curve.class) data-name=(curve.name) data-unit=(own_unit)
                                    data-log[self.is_log] d=(path(&corners, places)) {}
                            });
                        }
                    }))
                }
            }
        }
    }
}

impl Curve {
    /// Returns at most about this many corners of the curve; each piece between two gaps gets its share.
    fn corners(&self, most: usize) -> Vec<Point> {
        let most = if self.is_stairs { most / 2 } else { most };
        let piece = |points: &[Point]| {
            let thinned = thin(points, (most * points.len()).div_ceil(self.points.len()));
            let mut drawn = if self.is_stairs { stairs(&thinned) } else { thinned };
            drawn.push(Point { x: 0.0, y: Point::GAP });
            drawn
        };
        let pieces = self.points.split(|point| point.y.is_nan()).filter(|points| !points.is_empty());
        pieces.flat_map(piece).collect()
    }
}

/// Returns a horizontal position.
fn place(view: &Range<f64>, ms: f64) -> String {
    percent(Axis::from(view.clone()).map(&ms, (0, WIDTH)))
}

/// Returns named intervals as a row of boxes.
fn bands(view: &Range<f64>, class: &str, intervals: &[(&str, f64, f64)]) -> Markup {
    let width = view.end - view.start;
    html! {
        @if !intervals.is_empty() {
            div.bands.(class) {
                svg.boxes preserveAspectRatio="none" viewBox=(format!("{:.0} 0 {width:.0} 1", view.start)) {
                    @for (at, (name, from, to)) in intervals.iter().enumerate() {
                        rect.(format!("b{}", at % 2)) x=(format!("{from:.0}")) y="0" height="1"
                            width=(format!("{:.0}", (to - from).max(0.0))) { title { (name) } }
                    }
                }
                svg.names {
                    @for (name, from, to) in intervals {
                        @let (from, to) = (from.max(view.start), to.min(view.end));
                        @let middle = f64::midpoint(from, to);
                        text x=(place(view, middle)) y="17" data-from=(format!("{from:.0}"))
                            data-to=(format!("{to:.0}")) hidden[to - from < 0.12 * width] { (name) }
                    }
                }
            }
        }
    }
}

/// Returns the layer over all lanes: the switchover, and a line for each event.
fn overlay(view: &Range<f64>, measured: &Measured, events: &[Event]) -> Markup {
    let switchover = last_before_stop(measured).zip(runs_at_destination(measured));
    let width = view.end - view.start;
    html! {
        svg.over preserveAspectRatio="none" viewBox=(format!("{:.0} 0 {width:.0} 1", view.start)) {
            @if let Some((from, to)) = switchover {
                rect.switchover x=(format!("{from:.0}")) y="0" height="1"
                    width=(format!("{:.0}", (to - from).max(0.0))) {}
            }
            @for event in events {
                path.event d=(format!("M{:.0} 0V1", event.at_ms)) {}
            }
        }
        svg.flags {
            @for (at, event) in events.iter().enumerate() {
                text x=(place(view, event.at_ms)) y="12" data-from=(format!("{:.0}", event.at_ms)) {
                    (at + 1)
                }
            }
        }
    }
}

/// Something that happened at a moment.
struct Event {
    at_ms: f64,
    text: String,
}

/// Returns the events of an attempt, in order: changes of link and load, the end of pre-copy, the guest's
/// start at the destination, the arrival of the memory that follows it, and the end of a migration that was
/// given up.
fn events(measured: &Measured, end_ms: f64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let few = measured.timeline.len() <= MOST_CHANGES;
    for change in measured.timeline.iter().filter(|_| few) {
        let rate = change.rate.map(|rate| format!("dirty rate {rate}"));
        let link = change.link.as_ref().map(|link| format!("link: {link}"));
        let text = rate.into_iter().chain(link).collect::<Vec<_>>().join(", ");
        events.push(Event { at_ms: change.began_ms, text });
    }
    if let (Some(at_ms), Some(complete_ms)) = (runs_at_destination(measured), measured.total_time_ms) {
        let text = "end of pre-copy: the last sample before the guest stops".into();
        events.extend(last_before_stop(measured).map(|at_ms| Event { at_ms, text }));
        events.push(Event { at_ms, text: "the guest runs at the destination".into() });
        if measured.postcopy.duration_ms.is_some() {
            events.push(Event { at_ms: complete_ms, text: "all memory has arrived".into() });
        }
    } else {
        let text = "the migration has ended without a switchover".into();
        events.push(Event { at_ms: end_ms, text });
    }
    events.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    events
}

/// Returns the time of the last sample before the guest stopped for the switchover.
fn last_before_stop(measured: &Measured) -> Option<f64> {
    let first = measured.iterations.first()?.started_at_ms;
    Some(first + measured.transferred.while_running?.duration_ms).filter(|_| measured.total_time_ms.is_some())
}

/// Returns when the guest ran at the destination. In post-copy, its memory follows it until the total time
/// ends.
fn runs_at_destination(measured: &Measured) -> Option<f64> {
    Some(measured.total_time_ms? - measured.postcopy.duration_ms.unwrap_or_default())
}

/// Returns when the guest stopped for the switchover, or when the last pass ended without one.
fn end_of_migration(measured: &Measured) -> Option<f64> {
    let last_pass = || measured.iterations.last().map(|pass| pass.started_at_ms + pass.duration_ms);
    last_before_stop(measured).or_else(last_pass)
}

/// Returns the phases with their beginnings and ends in milliseconds since `migrate`.
fn phases(measured: &Measured) -> Vec<(Phase, f64, f64)> {
    if !measured.phases_ms.contains_key(&Phase::Migrate) {
        return Vec::new();
    }
    let before: f64 =
        measured.phases_ms.iter().take_while(|(phase, _)| **phase != Phase::Migrate).map(|(_, ms)| ms).sum();
    let mut from = -before;
    let phase = |(phase, ms): (&Phase, &f64)| {
        let began = from;
        from += ms;
        (*phase, began, from)
    };
    measured.phases_ms.iter().map(phase).collect()
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Boot => "boot",
        Phase::Fill => "fill",
        Phase::Settle => "settle",
        Phase::Migrate => "migrate",
        Phase::Observe => "observe",
        Phase::Verify => "verify",
        Phase::TearDown => "tear-down",
    }
}

/// Returns the phases of copying a disk, in milliseconds since the migration began.
fn disk(measured: &Measured) -> Vec<(&'static str, f64, f64)> {
    let storage = &measured.storage;
    successive(&[
        ("disk: copy", storage.bulk_ms),
        ("disk: kept up to date", storage.memory_ms),
        ("disk: handed over", storage.switchover_ms),
    ])
}

/// Returns the phases of a migration through a file, in milliseconds since `migrate`.
fn file(measured: &Measured) -> Vec<(&'static str, f64, f64)> {
    successive(&[("file: saving", measured.file.save_ms), ("file: loading", measured.file.load_ms)])
}

/// Returns the beginnings and ends of successive intervals with these durations, up to the first unknown
/// duration.
fn successive(durations: &[(&'static str, Option<f64>)]) -> Vec<(&'static str, f64, f64)> {
    let mut from = 0.0;
    let interval = |(name, ms): &(&'static str, Option<f64>)| {
        let began = from;
        from += (*ms)?;
        Some((*name, began, from))
    };
    durations.iter().map_while(interval).collect()
}

fn remaining(samples: &[Sample]) -> Vec<Curve> {
    let memory = samples.iter().filter_map(|sample| {
        let memory = sample.memory.filter(|memory| memory.pass > 0)?;
        Some(Point { x: sample.at_ms, y: memory.remaining_bytes as f64 / 1e6 })
    });
    let disk = samples
        .iter()
        .filter_map(|sample| Some(Point { x: sample.at_ms, y: sample.disk?.remaining_bytes as f64 / 1e6 }));
    vec![
        Curve { name: "memory", class: "c0", points: memory.collect(), is_stairs: false },
        Curve { name: "disk", class: "c1", points: disk.collect(), is_stairs: false },
    ]
}

/// Returns the number of the pass, which can be read off but is not drawn.
fn pass_numbers(measured: &Measured) -> Curve {
    let passes = measured.iterations.iter();
    let points = passes.map(|pass| Point { x: pass.started_at_ms, y: pass.number as f64 });
    Curve { name: PASS, class: "pass", points: points.collect(), is_stairs: true }
}

fn remaining_of_passes(measured: &Measured) -> Vec<Curve> {
    let passes = measured.iterations.iter();
    let points = passes.map(|p| Point { x: p.started_at_ms, y: p.remaining_bytes as f64 / 1e6 });
    let name = "memory, at the start of each pass";
    vec![Curve { name, class: "c0", points: points.collect(), is_stairs: false }]
}

/// Returns the sending rate, and QEMU's estimate of the dirty rate.
fn rates(samples: &[Sample]) -> Vec<Curve> {
    let sent = |sample: &Sample| {
        let disk = sample.disk.and_then(|disk| disk.sent_bytes);
        let memory = sample.memory.map(|memory| memory.transferred_bytes);
        [memory, disk].into_iter().flatten().reduce(u64::saturating_add)
    };
    // Nothing has been sent before the first figure. A later sample without one carries no information.
    let begun = samples.iter().position(|sample| sent(sample).is_some()).unwrap_or_default();
    let mut since: Option<(f64, u64)> = None;
    let mut points = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let Some(bytes) = sent(sample).or_else(|| (number < begun).then_some(0)) else { continue };
        let (first_ms, first) = *since.get_or_insert((sample.at_ms, bytes));
        let ms = sample.at_ms - first_ms;
        if ms >= SHORTEST_MS {
            points.push(Point { x: sample.at_ms, y: bytes.saturating_sub(first) as f64 / 1e3 / ms });
            since = Some((sample.at_ms, bytes));
        }
    }
    let estimate = samples.iter().filter_map(|sample| {
        let rate = sample.memory?.known_dirty_rate()?;
        Some(Point { x: sample.at_ms, y: rate as f64 / 1e6 })
    });
    vec![
        Curve { name: "sent", class: "c0", points, is_stairs: false },
        Curve {
            name: "dirty rate, QEMU's estimate",
            class: "c3",
            points: estimate.collect(),
            is_stairs: true,
        },
    ]
}

fn rates_of_passes(measured: &Measured) -> Vec<Curve> {
    let passes = measured.iterations.iter().filter(|pass| pass.bandwidth_bytes_per_s > 0);
    let points = passes.map(|p| Point { x: p.started_at_ms, y: p.bandwidth_bytes_per_s as f64 / 1e6 });
    let mut points: Vec<Point> = points.collect();
    points.extend(
        measured
            .iterations
            .last()
            .zip(points.last().copied())
            .map(|(pass, last)| Point { x: pass.started_at_ms + pass.duration_ms, y: last.y }),
    );
    vec![Curve { name: "sent, by pass", class: "c0", points, is_stairs: true }]
}

/// Returns the achieved and the requested dirty rates. The achieved rates come from the guest's reports;
/// without reports, they are, like the requested ones, for intervals with one rate each.
fn dirty_rates(measured: &Measured, reports: &[GuestReport]) -> Vec<Curve> {
    let stress = &measured.stress;
    let until = end_of_migration(measured);
    let mut intervals = stress.stretches.clone();
    if let (true, Some(to_ms)) = (intervals.is_empty(), until) {
        let (requested, achieved) = (stress.requested, stress.during);
        intervals.push(RateInterval { from_ms: 0.0, to_ms, requested, achieved });
    }
    let points = |rate: fn(&RateInterval) -> Option<f64>| {
        let ends = intervals.iter().filter_map(|interval| {
            let y = rate(interval)? / 1e6;
            Some([Point { x: interval.from_ms, y }, Point { x: interval.to_ms, y }])
        });
        ends.flatten().collect::<Vec<_>>()
    };
    let name = "dirty rate achieved";
    let achieved = match reported_rates(reports) {
        none if none.is_empty() => {
            Curve { name, class: "c2", points: points(|interval| interval.achieved), is_stairs: true }
        }
        points => Curve { name, class: "c2", points, is_stairs: false },
    };
    vec![
        achieved,
        Curve {
            name: "asked for",
            class: "c1",
            points: points(|interval| Some(interval.requested? as f64)),
            is_stairs: true,
        },
    ]
}

/// Returns the rate of a record's link at the start of the migration, in bits per second, if it had one.
fn link_at_start(folder: &Path, record: &Record) -> Option<u64> {
    let mut link = record.settings.link.clone();
    if let Some(trace) = &mut link.trace {
        // Without the traces, the curve begins with the first change.
        let texts = store::traces(folder).unwrap_or_default();
        trace.set_text(texts.get(trace.path())?).ok()?;
    }
    Some(link.at_start().rate?.get())
}

/// Returns the requested rate of the link, if it changed during the migration.
fn link_rate(measured: &Measured, at_start: impl FnOnce() -> Option<u64>) -> Option<Curve> {
    let point = |ms, bits: u64| Point { x: ms, y: bits as f64 / 8e6 };
    let changes =
        measured.timeline.iter().filter_map(|change| Some((change.done_ms, change.link_bits_per_s?)));
    let mut points: Vec<Point> = changes.map(|(ms, bits)| point(ms, bits)).collect();
    let last = *points.last()?;
    if let Some(bits) = at_start() {
        points.insert(0, point(0.0, bits));
    }
    points.extend(end_of_migration(measured).map(|x| Point { x, ..last }));
    Some(Curve { name: "link", class: "c4", points, is_stairs: true })
}

/// Returns the dirty rates between the guest's reports, in 10^6 bytes per second of the guest's clock.
fn reported_rates(reports: &[GuestReport]) -> Vec<Point> {
    let mut since = reports.first();
    let mut points = Vec::new();
    for report in reports {
        let Some(first) = since else { break };
        let ms = report.clock_ms - first.clock_ms;
        if ms >= SHORTEST_MS {
            let bytes = report.dirtied_bytes.saturating_sub(first.dirtied_bytes);
            points.push(Point { x: report.at_ms, y: bytes as f64 / 1e3 / ms });
            since = Some(report);
        }
    }
    points
}

fn throttle(samples: &[Sample]) -> Vec<Curve> {
    let points = samples.iter().map(|s| Point { x: s.at_ms, y: s.throttle_percent as f64 });
    throttled(points.collect())
}

fn throttle_of_passes(measured: &Measured) -> Vec<Curve> {
    let point = |pass: &crate::measure::passes::Pass| Point {
        x: pass.started_at_ms + pass.duration_ms,
        y: pass.throttle_percent as f64,
    };
    throttled(measured.iterations.iter().map(point).collect())
}

/// Returns the curve of a throttled guest; nothing for one that was never throttled.
fn throttled(points: Vec<Point>) -> Vec<Curve> {
    let is_throttled = points.iter().any(|point| point.y > 0.0);
    let curve = Curve { name: "share of time", class: "c4", points, is_stairs: true };
    is_throttled.then_some(curve).into_iter().collect()
}
