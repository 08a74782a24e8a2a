//! What viewers have to know, and what each of them already knows.

use crate::{
    measure::samples::Sample,
    results::client::{self, LiveWindow},
};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// The largest number of samples of the attempt in progress that are kept, and of windows of its probe: a
/// quarter of an hour at 20 per second. Beyond that, every other sample is dropped, and neighboring windows
/// are merged.
const MOST_SAMPLES: usize = 20_000;

/// A sample as the page draws it: time in milliseconds, memory left and sent in bytes, sending rate in 10^6
/// bit/s, dirty rate in bytes per second, throttling in percent, and the number of the pass. QEMU has no
/// dirty rate for about the first second; it is null then.
pub(super) type Point = [Option<f64>; 7];

/// Returns the point of a sample; nothing before there is any memory to send.
pub(super) fn point(sample: &Sample) -> Option<Point> {
    let memory = sample.memory?;
    Some([
        Some(sample.at_ms),
        Some(memory.remaining_bytes as f64),
        Some(memory.transferred_bytes as f64),
        Some(memory.mbit_per_s),
        memory.known_dirty_rate().map(|rate| rate as f64),
        Some(sample.throttle_percent as f64),
        Some(memory.pass as f64),
    ])
}

/// A window of the client's probe as the page draws it: when it began and its width in milliseconds, the
/// number of requests and of those without a reply, and the longest and the median round trip in
/// milliseconds, which are null if there was no reply.
pub(super) type ClientWindow = [Option<f64>; 6];

fn client_window(live: &LiveWindow) -> ClientWindow {
    let window = live.window;
    [
        Some(window.at_ms),
        Some(window.duration_ms),
        Some(window.requests as f64),
        Some(window.unanswered as f64),
        window.longest_round_trip_ms,
        live.median_round_trip_ms,
    ]
}

/// The state of a run, for all viewers.
#[derive(Debug)]
pub(super) struct Hub {
    folder: PathBuf,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    joined: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The version of the report.
    version: String,
    attempt: Option<Attempt>,
    /// The number of attempts so far that were in progress, and of times that samples were dropped. So it
    /// changes when a viewer has to start its curves again.
    generation: u64,
    /// Whether the run has ended, although viewers only learn of it after a final check of its folder.
    is_ending: bool,
    has_ended: bool,
}

/// The attempt in progress.
#[derive(Debug)]
struct Attempt {
    name: String,
    points: Vec<Point>,
    /// What the client's probe has seen. A later window replaces an earlier one with the same time.
    windows: Vec<LiveWindow>,
}

/// What is new for a viewer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(super) enum News {
    /// There is another version of the report.
    Page { version: String },
    /// An attempt is in progress, or no attempt is. The samples of an earlier one are obsolete.
    Attempt { name: Option<String> },
    /// Further samples of the attempt in progress.
    Samples { points: Vec<Point> },
    /// Further windows of the attempt's probe. A window with the time of an earlier one replaces it.
    Client { windows: Vec<ClientWindow> },
    /// The run has ended, and nothing will change any more.
    End,
}

/// What a viewer knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    version: String,
    /// The generation, and how many of its samples and windows the viewer has.
    attempt: Option<(u64, usize, usize)>,
    has_ended: bool,
}

impl Hub {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            state: Mutex::default(),
            changed: watch::channel(()).0,
            joined: Notify::new(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A failed viewer does not end the others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the viewers.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    pub(super) fn set_version(&self, version: String) {
        self.change(|state| state.version = version);
    }

    /// Sets the attempt in progress, which has no samples yet, or `None` if no attempt is in progress.
    pub(super) fn set_attempt(&self, name: Option<String>) {
        self.change(|state| {
            state.generation += 1;
            state.attempt = name.map(|name| Attempt { name, points: Vec::new(), windows: Vec::new() });
        });
    }

    /// Adds samples of the attempt in progress.
    pub(super) fn add(&self, points: Vec<Point>) {
        self.change(|state| {
            let Some(attempt) = &mut state.attempt else { return };
            attempt.points.extend(points);
            if attempt.points.len() > MOST_SAMPLES {
                let mut index = 0;
                attempt.points.retain(|_| {
                    index += 1;
                    index % 2 == 0
                });
                state.generation += 1;
            }
        });
    }

    /// Adds windows of the client's probe in the attempt in progress.
    pub(super) fn add_windows(&self, windows: Vec<LiveWindow>) {
        self.change(|state| {
            let Some(attempt) = &mut state.attempt else { return };
            attempt.windows.extend(windows);
            if attempt.windows.len() > MOST_SAMPLES {
                let windows = client::latest(std::mem::take(&mut attempt.windows));
                let merge = |pair: &[LiveWindow]| pair.iter().copied().reduce(LiveWindow::merge);
                attempt.windows = windows.chunks(2).filter_map(merge).collect();
                state.generation += 1;
            }
        });
    }

    /// Requests a final check of the folder, since the run has ended.
    pub(super) fn request_end(&self) {
        self.state().is_ending = true;
        self.joined.notify_one();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.state().is_ending
    }

    /// Notifies viewers that the run has ended, and that they know everything.
    pub(super) fn end(&self) {
        self.change(|state| state.has_ended = true);
    }

    pub(super) fn has_viewers(&self) -> bool {
        self.changed.receiver_count() > 0
    }

    /// Waits until there is a viewer.
    pub(super) async fn viewer(&self) {
        while !self.has_viewers() {
            self.joined.notified().await;
        }
    }

    /// Adds a viewer, for as long as it keeps the returned receiver, which changes whenever there may be
    /// news.
    pub(super) fn join(&self) -> watch::Receiver<()> {
        let changes = self.changed.subscribe();
        self.joined.notify_one();
        changes
    }

    /// Returns what is new for a viewer, in order, and records that the viewer knows it.
    pub(super) fn news(&self, known: &mut Known) -> Vec<News> {
        let state = self.state();
        let mut news = Vec::new();
        if known.version != state.version {
            known.version.clone_from(&state.version);
            news.push(News::Page { version: state.version.clone() });
        }
        let attempt = state.attempt.as_ref();
        let points = attempt.map_or(&[][..], |attempt| &attempt.points);
        let windows = attempt.map_or(&[][..], |attempt| &attempt.windows);
        let seen = known.attempt.filter(|(generation, ..)| *generation == state.generation);
        if seen.is_none() {
            news.push(News::Attempt { name: attempt.map(|attempt| attempt.name.clone()) });
        }
        let (_, seen_points, seen_windows) = seen.unwrap_or_default();
        if points.len() > seen_points {
            news.push(News::Samples { points: points[seen_points..].to_vec() });
        }
        if windows.len() > seen_windows {
            news.push(News::Client { windows: windows[seen_windows..].iter().map(client_window).collect() });
        }
        known.attempt = Some((state.generation, points.len(), windows.len()));
        if state.has_ended && !known.has_ended {
            known.has_ended = true;
            news.push(News::End);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::client::ProbeWindow;

    fn points(times: impl Iterator<Item = usize>) -> Vec<Point> {
        times.map(|ms| [ms as f64, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0].map(Some)).collect()
    }

    fn begun(name: &str) -> News {
        News::Attempt { name: Some(name.into()) }
    }

    #[test]
    fn a_viewer_that_joins_late_gets_everything_so_far() {
        let hub = Hub::new(Path::new("run"));
        let mut early = Known::default();
        hub.set_version("1".into());
        hub.set_attempt(Some("a".into()));
        assert_eq!(hub.news(&mut early), [News::Page { version: "1".into() }, begun("a")]);
        hub.add(points(0..2));
        hub.add(points(2..3));
        assert_eq!(hub.news(&mut early), [News::Samples { points: points(0..3) }]);
        assert_eq!(hub.news(&mut early), []);
        hub.add(points(3..4));
        assert_eq!(hub.news(&mut early), [News::Samples { points: points(3..4) }]);

        let mut late = Known::default();
        let all = [News::Page { version: "1".into() }, begun("a"), News::Samples { points: points(0..4) }];
        assert_eq!(hub.news(&mut late), all);

        hub.set_attempt(None);
        hub.end();
        for viewer in [&mut early, &mut late] {
            assert_eq!(hub.news(viewer), [News::Attempt { name: None }, News::End]);
            assert_eq!(hub.news(viewer), []);
        }
    }

    #[test]
    fn samples_of_an_endless_attempt_are_thinned() {
        let hub = Hub::new(Path::new("run"));
        let mut viewer = Known::default();
        hub.set_attempt(Some("a".into()));
        hub.add(points(0..MOST_SAMPLES));
        hub.news(&mut viewer);
        hub.add(points(MOST_SAMPLES..MOST_SAMPLES + 2));
        let news = hub.news(&mut viewer);
        assert_eq!(news[0], begun("a"), "the viewer begins anew");
        let News::Samples { points } = &news[1] else { panic!("{news:?}") };
        assert_eq!(points.len(), MOST_SAMPLES / 2 + 1);
        assert_eq!(points.last().unwrap()[0].unwrap() as usize, MOST_SAMPLES + 1);
    }

    fn window(number: usize, unanswered: u64, longest_round_trip_ms: Option<f64>) -> LiveWindow {
        LiveWindow {
            window: ProbeWindow {
                at_ms: 50.0 * number as f64,
                duration_ms: 50.0,
                requests: 5,
                unanswered,
                longest_round_trip_ms,
            },
            median_round_trip_ms: longest_round_trip_ms.map(|ms| ms / 2.0),
        }
    }

    #[test]
    fn a_viewer_gets_the_windows_of_the_probe_with_null_for_no_reply() {
        let hub = Hub::new(Path::new("run"));
        let mut viewer = Known::default();
        hub.add_windows(vec![window(0, 0, Some(1.0))]);
        hub.set_attempt(Some("a".into()));
        hub.add_windows(vec![window(0, 1, Some(2.0)), window(1, 5, None)]);
        let news = hub.news(&mut viewer);
        assert_eq!(news[0], begun("a"), "nothing is kept without an attempt");
        let json = serde_json::to_string(&news[1]).unwrap();
        let windows = "[[0.0,50.0,5.0,1.0,2.0,1.0],[50.0,50.0,5.0,5.0,null,null]]";
        assert_eq!(json, format!(r#"{{"kind":"client","windows":{windows}}}"#));
        hub.add_windows(vec![window(1, 4, Some(40.0))]);
        let News::Client { windows } = &hub.news(&mut viewer)[0] else { panic!("no windows") };
        assert_eq!(windows.len(), 1);
        hub.set_attempt(None);
        assert_eq!(hub.news(&mut viewer), [News::Attempt { name: None }]);
    }

    #[test]
    fn windows_of_an_endless_attempt_are_merged_and_keep_peaks_and_losses() {
        let hub = Hub::new(Path::new("run"));
        hub.set_attempt(Some("a".into()));
        let mut windows: Vec<LiveWindow> = (0..MOST_SAMPLES).map(|n| window(n, 0, Some(1.0))).collect();
        windows[101] = window(101, 2, Some(700.0));
        windows[104..107].copy_from_slice(&[104, 105, 106].map(|number| window(number, 5, None)));
        // It has been answered in the meantime.
        windows.push(window(104, 4, Some(9.0)));
        hub.add_windows(windows);
        let news = hub.news(&mut Known::default());
        let News::Client { windows } = &news[1] else { panic!("{news:?}") };
        assert_eq!(windows.len(), MOST_SAMPLES / 2);
        let shown = |at: usize| serde_json::to_string(&windows[at]).unwrap();
        assert_eq!(shown(50), "[5000.0,100.0,10.0,2.0,700.0,350.0]");
        assert_eq!(shown(52), "[5200.0,100.0,10.0,9.0,9.0,4.5]");
        assert_eq!(shown(53), "[5300.0,100.0,10.0,5.0,1.0,0.5]");
    }
}
