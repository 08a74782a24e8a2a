//! A heat map of a matrix with two axes, for each of its main figures.

use super::{
    Detail, Section,
    view::{View, class, sign},
};
use crate::report::heat_map::{Axes, FIGURES, Field, HeatMap};
use maud::{Markup, html};

/// The largest number of maps side by side.
const BESIDE: usize = 3;

pub(super) fn section(view: &View<'_>, _: Detail) -> Option<Section> {
    let axes = Axes::of(view.plan, view.records)?;
    let maps = FIGURES.iter().filter_map(|figure| HeatMap::new(&axes, figure)).enumerate();
    let maps: Vec<Markup> =
        maps.map(|(at, map)| table(&axes, &map, &view.id(&format!("heat-map-{}", at + 1)))).collect();
    (!maps.is_empty()).then(|| Section {
        id: "heat-map",
        title: "Heat map",
        body: html! { div.maps.wide[axes.columns.len() > BESIDE] { @for map in maps { (map) } } },
    })
}

fn table(axes: &Axes<'_>, map: &HeatMap<'_>, id: &str) -> Markup {
    let title = map.figure.title();
    html! {
        div {
            div.tools { button type="button" data-csv=(id) { "CSV" } }
            div.scroll tabindex="0" role="region" aria-label=(title) {
                table.heat #(id) data-fixed="" {
                    caption { (title) ", median of the migrations that converged" }
                    thead {
                        tr {
                            th scope="col" { (axes.down) " ╲ " (axes.across) }
                            @for column in &axes.columns { th scope="col" { (column) } }
                        }
                    }
                    tbody {
                        @for row in &axes.rows {
                            tr {
                                th scope="row" { (row) }
                                @for column in &axes.columns { (field(map, map.field(column, row))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn field(map: &HeatMap<'_>, field: Field) -> Markup {
    html! {
        @match field {
            Field::Absent => td.absent { "not in the matrix" },
            Field::NotTried => td.none { "· not tried" },
            Field::Without(worst) => td class=(class(worst)) { (sign(worst)) " " (worst.as_str()) },
            Field::Measured { median, shade, other } => td class={ "h" (shade) } {
                (map.figure.show(median))
                @if let Some(other) = other { " " span title=(other.as_str()) { (sign(other)) } }
            },
        }
    }
}
