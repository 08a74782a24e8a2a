//! A figure over the dirty rate.
//!
//! Measured values are marks with the range of their attempts, the prediction is a dashed line, published
//! values are open diamonds. Attempts that were given up are crosses at the top.

use super::{COLORS, INK, LINE, round};
use crate::{
    matrix::Plan,
    measure::median,
    outcome::Outcome,
    report::{
        html::chart::scale::Scale,
        threshold::{Group, OverRate, PUBLISHED, SHAPES},
    },
};
use maud::{Markup, html};

/// The plot's left, top, right and bottom edge.
const PLOT: (f64, f64, f64, f64) = (70.0, 60.0, 740.0, 350.0);
/// The height of the figure without its legend.
const HEIGHT: f64 = 420.0;

/// Draws a figure over the dirty rate. Returns it with its height.
pub(super) fn draw(plan: &Plan, groups: &[Group<'_>], over: &OverRate) -> (Markup, f64) {
    let drawing = Drawing::new(plan, groups, over).draw();
    (drawing, HEIGHT + LINE * groups.len() as f64)
}

struct Drawing<'a> {
    plan: &'a Plan,
    groups: &'a [Group<'a>],
    over: &'a OverRate,
    x: Scale,
    y: Scale,
}

impl<'a> Drawing<'a> {
    fn new(plan: &'a Plan, groups: &'a [Group<'a>], over: &'a OverRate) -> Self {
        let levels = || groups.iter().flat_map(|group| &group.levels);
        let fastest = levels().map(|level| level.rate).fold(0.0, f64::max);
        let shown = levels()
            .flat_map(|level| level.values(&over.figure).into_iter().chain(over.published(plan, level.cell)));
        let most = shown.fold(0.0, f64::max);
        Self {
            plan,
            groups,
            over,
            x: Scale::exact(-fastest * 0.03, fastest * 1.04, 7),
            y: Scale::covering(0.0, if most > 0.0 { most * 1.15 } else { 1.0 }, 5),
        }
    }

    fn x(&self, mb_per_s: f64) -> f64 {
        round(PLOT.0 + self.x.share(mb_per_s) * (PLOT.2 - PLOT.0))
    }

    fn y(&self, value: f64) -> f64 {
        round(PLOT.3 - self.y.share(value) * (PLOT.3 - PLOT.1))
    }

    fn draw(&self) -> Markup {
        let (left, top, right, bottom) = PLOT;
        let middle = f64::midpoint(left, right);
        html! {
            text x=(left) y="30" font-size="18" font-weight="bold" {
                (self.plan.name) ": " (self.over.figure.title())
            }
            (self.edge())
            @for (value, label) in self.y.ticks() {
                path d=(format!("M{left} {}H{right}", self.y(value))) stroke="#d3dae1" {}
                text x=(left - 8.0) y=(self.y(value) + 5.0) text-anchor="end" { (label) }
            }
            @for (value, label) in self.x.ticks() {
                text x=(self.x(value)) y=(bottom + 22.0) text-anchor="middle" { (label) }
            }
            path d=(format!("M{left} {top}V{bottom}H{right}")) fill="none" stroke=(INK) stroke-width="2" {}
            text x=(middle) y=(bottom + 48.0) text-anchor="middle" { "dirty rate, MB/s" }
            @for (at, group) in self.groups.iter().enumerate() { (self.group(group, at)) }
        }
    }

    /// Shades what is between convergence and its end, if there is only one group.
    fn edge(&self) -> Markup {
        let [group] = self.groups else { return html! {} };
        let Some((below, above)) = group.edge() else { return html! {} };
        let from = below.map_or(PLOT.0, |rate| self.x(rate));
        let width = (self.x(above) - from).max(0.0);
        html! { rect x=(from) y=(PLOT.1) width=(round(width)) height=(PLOT.3 - PLOT.1) fill="#f4e3d9" {} }
    }

    fn group(&self, group: &Group<'_>, at: usize) -> Markup {
        let (color, shape) = (COLORS[at], SHAPES[at]);
        let line = HEIGHT + LINE * at as f64;
        let name = if group.name.is_empty() { "measured" } else { &group.name };
        let published = |cell| self.over.published(self.plan, cell);
        html! {
            (self.prediction(group, color))
            @for level in &group.levels {
                @let x = self.x(level.rate);
                @if let Some(value) = published(level.cell) {
                    path d=(format!("M{x} {}{PUBLISHED}", self.y(value))) fill="#fff" stroke=(color)
                        stroke-width="2" {}
                }
                @let values = level.values(&self.over.figure);
                @if let (Some(middle), [least, .., most] | [least @ most]) = (median(&values), &values[..]) {
                    path d=(format!("M{x} {}V{}", self.y(*least), self.y(*most))) stroke=(color)
                        stroke-width="3" {}
                    path d=(format!("M{x} {}{shape}", self.y(middle))) fill=(color) {}
                }
                @if level.outcome() == Some(Outcome::NotConverged) {
                    @let y = PLOT.1 + 12.0 + 16.0 * at as f64;
                    path d=(format!("M{x} {y}m-6 -6l12 12m0 -12l-12 12")) stroke=(color) stroke-width="3" {}
                }
            }
            path d=(format!("M{} {}{shape}", PLOT.0 + 10.0, line - 5.0)) fill=(color) {}
            text x=(PLOT.0 + 28.0) y=(line) {
                (name)
                @if group.is_predicted() { " · dashed: predicted" }
                " · cross: given up"
                @if group.levels.iter().any(|level| published(level.cell).is_some()) { " · open: published" }
            }
        }
    }

    fn prediction(&self, group: &Group<'_>, color: &str) -> Markup {
        let points = group.prediction(self.over, self.x.max);
        let drawn = points.iter().take_while(|(_, value)| *value <= self.y.max);
        let points: Vec<String> =
            drawn.map(|(rate, value)| format!("{},{}", self.x(*rate), self.y(*value))).collect();
        html! {
            @if !points.is_empty() {
                polyline points=(points.join(" ")) fill="none" stroke=(color) stroke-width="2"
                    stroke-dasharray="8 6" {}
            }
        }
    }
}
