//! Tests content that XBZRLE likes, with real QEMU processes.

use crate::common::real::{TestDir, ready_alone};
use testbed::{outcome::Outcome, results::record::Record};

/// A guest that changes 40 bytes of each page, faster than the link carries whole pages.
const SPARSE: &str = "
name: sparse
guest: { memory: 192MiB, ballast: 16MiB, accel: tcg }
link: { rate: 80mbit }
stress: { rate: 16MB/s, working_set: 16MB, content: sparse:1% }
migrate: { downtime_limit: 30ms, timeout: 120s, max_passes: 8, xbzrle_cache_size: 64MiB, xbzrle: true }
axes:
  aid:
    - { migrate.xbzrle: true }
    - { migrate.xbzrle: false, migrate.xbzrle_cache_size: none }
";

#[test]
#[ignore = "runs QEMU: cargo xtask test"]
fn xbzrle_saves_bytes_where_a_write_changes_few_of_a_page() {
    let Some(ready) = ready_alone() else { return };
    let dir = TestDir::new(&ready, SPARSE);
    assert_eq!(dir.run(&["matrix.yaml", "--out", "run"]), 0, "{}", dir.shown());
    let [with, without] = &dir.records()[..] else { panic!("{}", dir.shown()) };
    for record in [with, without] {
        assert!(matches!(record.outcome, Outcome::Converged | Outcome::NotConverged), "{record:#?}");
        let verified = record.measured.verified.as_ref().unwrap();
        assert!(verified.pages_checked > 8000 && verified.first_bad.is_none(), "{record:#?}");
    }
    let aids = &with.measured.aids;
    let (pages, bytes) = (aids.xbzrle_pages.unwrap(), aids.xbzrle_bytes.unwrap());
    assert!(pages > 1000, "pages that were in the cache: {with:#?}");
    assert!(bytes < pages * 4096 / 4, "they became small: {with:#?}");
    let sent = |record: &Record| record.measured.transferred.qemu_bytes.unwrap();
    assert!(sent(with) + 10_000_000 < sent(without), "{} and {}", sent(with), sent(without));
}
