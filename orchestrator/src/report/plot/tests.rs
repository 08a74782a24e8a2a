use super::*;
use crate::outcome::Outcome;
use units::ByteRate;

/// Returns a level: its rate in megabytes per second, the total times in seconds of the attempts that
/// converged, and the number of those that were given up.
fn level(mb_per_s: u64, seconds: &[f64], given_up: usize) -> Level {
    Level {
        rate: ByteRate::new(mb_per_s * 1_000_000),
        cell: String::new(),
        text: format!("{mb_per_s}MB/s"),
        converged: seconds.iter().map(|seconds| Some(seconds * 1e3)).collect(),
        given_up,
        failed: Vec::new(),
    }
}

fn group(name: &str, levels: Vec<Level>) -> Group {
    Group { name: name.into(), levels }
}

fn screen(width: usize, is_ascii: bool) -> Screen {
    Screen { width: Some(width), is_ascii, is_colored: false }
}

fn threshold() -> Group {
    let levels = [
        level(16, &[4.0], 0),
        level(64, &[6.0, 7.0, 11.0], 0),
        level(96, &[16.0], 0),
        level(112, &[20.0], 1),
        level(128, &[], 2),
    ];
    group("", levels.into())
}

#[test]
fn one_group_is_drawn_against_total_time() {
    let expected = [
        "total time",
        "given up ┤                                   ┊   ×     ×",
        "  20.0 s ┤                                   ┊   ◐",
        "         │                                ●  ┊",
        "         │                                   ┊",
        "         │                    │              ┊",
        "         │                    │              ┊",
        "         │                    ●              ┊",
        "         │ ●                                 ┊",
        "     0 s ┤                                   ┊",
        "         └──────────────────────────────────────────────────",
        "          16MB/s           64MB/s      96MB/s       128MB/s",
        "          dirty rate: ● converged, ◐ in part, × given up",
    ];
    let text = draw(&[threshold()], screen(60, false));
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

#[test]
fn any_time_leaves_room_for_the_plot() {
    for seconds in [1e7, 1e36, 1e98, 1e305] {
        let text = draw(&[group("", vec![level(1, &[seconds], 0), level(2, &[], 1)])], screen(40, true));
        assert!(text.lines().all(|line| line.len() <= 40) && text.contains("0e"), "\n{text}");
    }
}

#[test]
fn a_rate_at_which_an_attempt_failed_is_not_one_that_converged() {
    let failed = |level| Level { failed: vec![Outcome::GuestLost], ..level };
    let levels = vec![level(16, &[4.0], 0), failed(level(64, &[6.0], 0)), failed(level(96, &[], 0))];
    let text = draw(&[group("", levels)], screen(60, false));
    assert!(text.contains("failed ┤") && text.contains("● converged, ◐ in part, ! failed"), "\n{text}");
    assert_eq!((text.matches('●').count(), text.matches('!').count()), (2, 3), "\n{text}");
    assert_eq!(text.matches('┊').count(), 9, "\n{text}");
}

#[test]
fn a_plain_terminal_gets_plain_characters() {
    for groups in [vec![threshold()], vec![threshold(), group("link.delay 10ms", threshold().levels)]] {
        let text = draw(&groups, screen(60, true));
        assert!(text.is_ascii() && text.contains('x') && text.contains('o'), "\n{text}");
        assert_eq!(text.lines().count(), draw(&groups, screen(60, false)).lines().count());
    }
}

#[test]
fn several_groups_are_lines_over_one_axis() {
    let fast = group("link.rate 1gbit", vec![level(0, &[1.0], 0), level(128, &[3.0], 0)]);
    let slow = group("link.rate 400mbit", vec![level(0, &[2.0], 0), level(64, &[], 1)]);
    let expected = [
        "link.rate 1gbit   ┤ ●                                  ●",
        "link.rate 400mbit ┤ ●                 ×",
        "                  └─────────────────────────────────────────",
        "                   0MB/s           64MB/s           128MB/s",
        "                   dirty rate: ● converged, × given up",
    ];
    let text = draw(&[fast, slow], screen(60, false));
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "\n{text}");
}

#[test]
fn rates_that_would_share_a_column_are_evenly_spaced() {
    let levels = vec![level(1, &[1.0], 0), level(2, &[1.5], 0), level(1000, &[], 1)];
    let groups = [group("", levels)];
    let axis = Axis::new(&groups, 41);
    let columns: Vec<usize> = axis.ticks.iter().map(|(.., column)| *column).collect();
    assert_eq!(columns[1] - columns[0], columns[2] - columns[1], "{columns:?}");
}

#[test]
fn no_line_is_wider_than_the_screen() {
    let long = group("a name that is much longer than a third of any screen", threshold().levels);
    let many = (1..80).map(|rate| level(rate * 7, &[rate as f64], usize::from(rate > 50))).collect();
    for groups in [vec![threshold()], vec![threshold(), long], vec![group("", many)]] {
        for width in WIDTHS.0..120 {
            let text = draw(&groups, screen(width, false));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} > {width}\n{text}");
        }
    }
}

#[test]
fn without_total_times_there_are_only_marks() {
    let text = draw(&[group("", vec![level(1, &[], 1), level(2, &[], 1)])], screen(60, false));
    assert_eq!(text.matches('×').count(), 3, "\n{text}");
    assert!(!text.contains("total time"), "\n{text}");
    assert_eq!(draw(&[], screen(60, false)), "");
}
