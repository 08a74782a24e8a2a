//! The section `link` of a matrix, which is netem's [`Profile`].

use super::field::{self, Field, Section};
use netem::Profile;
use std::sync::OnceLock;

field::fields!(Profile {
    rate,
    shaper,
    burst,
    queue,
    delay,
    jitter,
    jitter_correlation,
    distribution,
    loss,
    loss_correlation,
    loss_bursts,
    duplicate,
    duplicate_correlation,
    corrupt,
    corrupt_correlation,
    reorder,
    reorder_correlation,
    reorder_gap,
    limit,
    slots,
});

/// Returns all settings of a link, under the names that they have within the section.
pub(super) fn fields() -> &'static [Field<Profile>] {
    static FIELDS: OnceLock<Vec<Field<Profile>>> = OnceLock::new();
    FIELDS.get_or_init(Profile::fields)
}
