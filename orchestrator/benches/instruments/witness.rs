//! Independent checks of the stressor: what QEMU observes as dirtied in a guest, compared with the
//! stressor's own count.
//!
//! There are three methods, because none is sufficient alone:
//!
//! - `calc-dirty-rate` in dirty-bitmap mode counts pages when KVM hands over its dirty log. Under TCG
//!   nothing is handed over, and QEMU (10.0) reports 0. It reports whole MiB/s, rounded down.
//! - `calc-dirty-rate` in page-sampling mode compares checksums of randomly chosen pages, under any
//!   accelerator. Its accuracy depends on the sample: at most 16384 pages per GiB.
//! - Two images of the guest's memory (`pmemsave`), taken while the stressor is stopped, are compared page
//!   by page. This is exact, works under any accelerator, and does not depend on the stressor or its
//!   pacing.
//!
//! The working set is larger than the memory dirtied during a measurement. Otherwise, the stressor would
//! count some pages twice that the check counts once.

use crate::{
    BenchConfig, Result,
    guest::{BenchGuest, MEMORY},
    report::{ReportWriter, percent, progress, verdict},
    stressing::rate_limit,
};
use serde_json::{Value, json};
use std::{fs::File, io::Read, path::Path, time::Duration};
use stressor::{
    Workload,
    protocol::Command,
    workload::{Content, Write},
};
use testbed::{driver::qemu::machine::Accelerator, migration::load};
use tokio::time::Instant;
use units::Bytes;

/// The rates in MB/s; 0 shows what the guest's kernel dirties on its own.
const RATES: [u64; 8] = [0, 16, 32, 64, 96, 128, 250, 500];
const WORKING_SET: Bytes = Bytes::new(640 << 20);
const CALCULATION: Duration = Duration::from_secs(1);
/// The largest sample per GiB that QEMU allows.
const SAMPLED_PAGES: u64 = 16384;
const MEBIBYTE: f64 = 1_048_576.0;
/// The largest relative difference that meets the target.
const TOLERANCE: f64 = 0.02;
/// Half the width of the 99.9 % interval of a normal distribution, in standard deviations.
const DEVIATIONS: f64 = 3.29;

pub(crate) async fn measure(config: &BenchConfig, report: &ReportWriter) -> Result<()> {
    report.heading("Independent checks: what QEMU observes as dirtied in a guest");
    let bench = BenchGuest::boot(config).await?;
    report.text(&format!(
        "accelerator: {}. Working set {} MiB of {} MiB, one word per page, sequential; {} s per figure.",
        bench.accelerator,
        WORKING_SET.get() >> 20,
        MEMORY.get() >> 20,
        CALCULATION.as_secs()
    ));
    images(&bench, report).await?;
    calculated(&bench, report).await?;
    bench.shut_down().await
}

async fn set(bench: &BenchGuest, rate: u64) -> Result<()> {
    let workload = Workload {
        rate: rate_limit(Some(rate)),
        working_set: WORKING_SET,
        content: Content::Increment,
        write: Write::Word,
        ..Workload::default()
    };
    bench.ask("take a workload", Command::Set(workload)).await
}

/// Compares images of the memory before and after the stressor has run.
async fn images(bench: &BenchGuest, report: &ReportWriter) -> Result<()> {
    report.text(
        "\nTwo images of the guest's memory. Own: pages counted by the stressor, plus 1 in 1024 for its \
         table of generations.\nSeen: pages that differ, minus those that differ at rate 0.\n",
    );
    let files = ["before", "after"].map(|name| bench.scratch.path().join(name));
    let mut background = 0;
    let mut rows = Vec::new();
    for rate in RATES {
        progress(&format!("images of a guest at {rate} MB/s"));
        set(bench, rate).await?;
        let before = bench.next_telemetry().await?.telemetry;
        bench.save_memory(&files[0]).await?;
        bench.ask("start dirtying", Command::Start).await?;
        tokio::time::sleep(CALCULATION).await;
        bench.ask("stop dirtying", Command::Stop).await?;
        let after = bench.next_telemetry().await?.telemetry;
        bench.save_memory(&files[1]).await?;
        let different = different_pages(&files[0], &files[1])?;
        if rate == 0 {
            background = different;
            report.text(&format!("at rate 0, {background} pages differ, dirtied by the guest's kernel\n"));
            continue;
        }
        let pages = after.pages_dirtied - before.pages_dirtied;
        let own = pages as f64 * (1.0 + 1.0 / 1024.0);
        let seen = different.saturating_sub(background) as f64;
        let off = seen / own - 1.0;
        let holds = if pages * 4096 < WORKING_SET.get() {
            format!("within 2%: {}", verdict(off.abs() <= TOLERANCE))
        } else {
            "more than the working set".into()
        };
        rows.push(vec![
            rate.to_string(),
            format!("{:.1}", pages as f64 * 4096.0 / 1e6 / CALCULATION.as_secs_f64()),
            format!("{own:.0}"),
            format!("{seen:.0}"),
            percent(off),
            holds,
        ]);
    }
    report.table(&["asked MB/s", "got about", "own pages", "seen pages", "difference", "wanted"], 0, &rows);
    Ok(())
}

/// Counts the 4 KiB pages that differ between two memory images.
fn different_pages(one: &Path, other: &Path) -> Result<u64> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut chunks = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut different = 0;
    for _ in 0..MEMORY.get() >> 20 {
        let [first, second] = &mut chunks;
        one.read_exact(first)?;
        other.read_exact(second)?;
        let pairs = first.chunks(4096).zip(second.chunks(4096));
        different += pairs.filter(|(a, b)| a != b).count() as u64;
    }
    Ok(different)
}

/// Compares `calc-dirty-rate` with the stressor's telemetry, for all rates and both modes.
async fn calculated(bench: &BenchGuest, report: &ReportWriter) -> Result<()> {
    report.text(
        "\ncalc-dirty-rate, in MiB/s, rounded down by QEMU. Wanted: within 2 %, and 1 MiB/s for the \
         rounding; in page-sampling mode\nalso within the 99.9 % interval of its sample. Own: the stressor's \
         telemetry of the same time.\n",
    );
    if bench.kind == Accelerator::Tcg {
        report.text(
            "Under TCG, dirty-bitmap mode cannot check anything: QEMU counts pages when it takes over KVM's \
             dirty log, but TCG\nmarks the bitmap directly at each write. QEMU therefore reports 0.\n",
        );
    }
    let mut rows = Vec::new();
    for rate in RATES {
        progress(&format!("calc-dirty-rate at {rate} MB/s"));
        set(bench, rate).await?;
        bench.ask("start dirtying", Command::Start).await?;
        tokio::time::sleep(CALCULATION).await;
        for mode in ["dirty-bitmap", "page-sampling"] {
            let (own, said) = calculate(bench, mode).await?;
            let own = own / MEBIBYTE;
            let share = own * CALCULATION.as_secs_f64() * MEBIBYTE / MEMORY.get() as f64;
            let samples = (SAMPLED_PAGES * MEMORY.get()) >> 30;
            let sampling = match mode {
                "page-sampling" if share > 0.0 => {
                    DEVIATIONS * ((1.0 - share).max(0.0) / (share * samples as f64)).sqrt()
                }
                _ => 0.0,
            };
            let allowed = TOLERANCE + sampling;
            let holds = said <= own * (1.0 + allowed) && said + 1.0 >= own * (1.0 - allowed);
            let wanted = match mode {
                "dirty-bitmap" if bench.kind == Accelerator::Tcg => "not counted under TCG".into(),
                _ => format!("within {:.1}%: {}", 100.0 * allowed, verdict(holds)),
            };
            let off = if own > 0.0 { percent(said / own - 1.0) } else { String::new() };
            rows.push(vec![
                mode.into(),
                rate.to_string(),
                format!("{own:.1}"),
                format!("{said:.0}"),
                off,
                wanted,
            ]);
        }
        bench.ask("stop dirtying", Command::Stop).await?;
    }
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    report.table(&["mode", "asked MB/s", "own MiB/s", "says MiB/s", "difference", "wanted"], 1, &rows);
    Ok(())
}

/// Runs `calc-dirty-rate` once. Returns the stressor's own rate in bytes per second, and QEMU's in MiB per
/// second.
async fn calculate(bench: &BenchGuest, mode: &str) -> Result<(f64, f64)> {
    let monitor = &bench.guest.monitor;
    let mut arguments = json!({ "calc-time": CALCULATION.as_secs(), "mode": mode });
    if mode == "page-sampling" {
        arguments["sample-pages"] = SAMPLED_PAGES.into();
    }
    let from = Instant::now();
    monitor.call("calc-dirty-rate", arguments).await?;
    let limit = from + CALCULATION * 20;
    while Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer: Value = monitor.query("query-dirty-rate").await?;
        if answer["status"] == "measured" {
            let said =
                answer["dirty-rate"].as_f64().ok_or("QEMU reports \"measured\" without a dirty rate")?;
            let telemetry = bench.guest.control_port.telemetry();
            let own = load::rate(load::between(&telemetry, from, Instant::now()));
            return Ok((own.ok_or("the guest sent no telemetry")?, said));
        }
    }
    Err(format!("QEMU did not finish calc-dirty-rate within {} s", (CALCULATION * 20).as_secs()).into())
}
