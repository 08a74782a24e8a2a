//! Tables that the script sorts, filters and saves as CSV.

use maud::{Markup, html};

/// A cell of a table.
pub(super) struct Field {
    /// The displayed content.
    pub(super) content: Markup,
    /// The key by which it is sorted, if that differs from its text.
    pub(super) key: Option<String>,
}

impl Field {
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self { content: html! { (text.as_ref()) }, key: None }
    }

    pub(super) fn markup(content: Markup) -> Self {
        Self { content, key: None }
    }

    /// Returns a number with this many decimals; a dash without one.
    pub(super) fn number(value: Option<f64>, decimals: usize) -> Self {
        Self::text(value.map_or_else(|| "-".into(), |value| format!("{value:.decimals$}")))
    }

    /// Returns a value of an axis, which is sorted by its meaning: `112MB/s` after `16MB/s`.
    pub(super) fn axis(value: &str) -> Self {
        Self { content: html! { (value) }, key: meaning(value).map(|base| base.to_string()) }
    }
}

/// Returns a quantity in its base unit: bytes, bytes or bits per second, nanoseconds.
pub(super) fn meaning(value: &str) -> Option<u64> {
    use units::{BitRate, ByteRate, Bytes, Span};
    let rate = value.parse::<ByteRate>().map(ByteRate::get);
    let rate = rate.or_else(|_| value.parse::<BitRate>().map(BitRate::get));
    let bytes = rate.or_else(|_| value.parse::<Bytes>().map(Bytes::get));
    bytes.or_else(|_| value.parse::<Span>().map(Span::as_nanos)).ok()
}

/// A table with a name.
pub(super) struct Table<'a> {
    /// Its identifier in the page's address, unique on the page.
    pub(super) id: &'a str,
    /// A description for readers who cannot see it.
    pub(super) caption: &'a str,
    /// The titles of the columns, with units.
    pub(super) header: &'a [String],
    /// The number of columns, from the left, that contain words; the others contain numbers.
    pub(super) words: usize,
    pub(super) rows: Vec<Vec<Field>>,
}

/// Returns a title that may be broken within a name such as `migrate.multifd_channels`, so that the columns
/// of axes are not wider than their values need.
fn breakable(title: &str) -> Markup {
    html! {
        @for (at, part) in title.split_inclusive(['.', '_']).enumerate() {
            @if at > 0 { wbr; }
            (part)
        }
    }
}

/// The number of rows from which a table can be filtered.
const FILTERED_FROM: usize = 8;

impl Table<'_> {
    pub(super) fn render(self) -> Markup {
        let Self { id, caption, header, words, rows } = self;
        html! {
            div.tools {
                @if rows.len() >= FILTERED_FROM {
                    label { "Filter " input type="search" data-filter=(id) autocomplete="off"; }
                    span.shown role="status" {}
                }
                button type="button" data-csv=(id) { "CSV" }
            }
            div.scroll tabindex="0" role="region" aria-label=(caption) {
                table id=(id) {
                    caption { (caption) }
                    thead {
                        tr {
                            @for (at, title) in header.iter().enumerate() {
                                th scope="col" class=[(at >= words).then_some("n")] { (breakable(title)) }
                            }
                        }
                    }
                    tbody {
                        @for row in rows {
                            tr {
                                @for (at, field) in row.into_iter().enumerate() {
                                    td class=[(at >= words).then_some("n")] data-v=[field.key] {
                                        (field.content)
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::meaning;

    #[test]
    fn axis_values_are_sorted_by_what_they_mean() {
        assert!(meaning("112MB/s") > meaning("16MB/s"));
        assert!(meaning("2500us") < meaning("10ms"));
        assert!(meaning("1gbit") > meaning("936mbit"));
        assert_eq!(meaning("precopy"), None);
    }
}
