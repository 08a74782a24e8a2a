//! Measures the links: the requested profile compared with actual traffic, for each backend, and the time
//! to apply a profile.
//!
//! Each figure is measured in two new network namespaces with an interface `link` in each. Goodput is
//! measured with one TCP stream. The probes sent beside the stream use at most a thousandth of the rate. On
//! slow links the stream runs long enough that one packet more or less does not matter: at 1 Mbit/s a packet
//! takes 12 ms.

use crate::{
    BenchConfig, Result, cpu,
    report::{ReportWriter, median, percent, progress, verdict},
};
use netem::{
    LinkProfile, Namespace, Netlink, Profile,
    measure::{Measurement, MeasurementSettings, Server, measure as measure_path, tcp_payload},
    userspace::{Emulator, Tun},
};
use std::{
    io,
    net::Ipv4Addr,
    os::fd::AsFd,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use units::{ByteRate, Span};

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const PORT: u16 = 5202;
/// The size of a probe's frame as the shaper counts it: 64 bytes plus UDP, IP and Ethernet headers.
const PROBE_FRAME_BITS: u64 = (64 + 8 + 20 + 14) * 8;

const GOODPUT: [&str; 7] = ["1mbit", "10mbit", "100mbit", "500mbit", "984mbit", "5gbit", "10gbit"];
const DELAYS: [&str; 4] = ["1ms", "5ms", "20ms", "80ms"];
const LOSSES: [&str; 3] = ["0.1%", "1%", "10%"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    Kernel,
    Userspace,
}

impl Backend {
    const ALL: [Self; 2] = [Self::Kernel, Self::Userspace];

    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}

/// Two namespaces and the link between them.
struct Link {
    near: Namespace,
    near_netlink: Netlink,
    emulator: Option<Emulator>,
    /// Kept open, because a namespace ends with its last reference.
    _far: Namespace,
}

impl Link {
    async fn new(backend: Backend, profile: &LinkProfile) -> Result<Self> {
        let (near, far) = (Namespace::new()?, Namespace::new()?);
        let near_netlink = Netlink::open_in(near.as_fd())?;
        let far_netlink = Netlink::open_in(far.as_fd())?;
        let emulator = match backend {
            Backend::Kernel => {
                near_netlink.add_veth("link", "link", Some(far.as_fd())).await?;
                near_netlink.apply("link", &profile.forward).await?;
                far_netlink.apply("link", &profile.backward).await?;
                None
            }
            Backend::Userspace => {
                let (one, other) = (Tun::open_in(near.as_fd(), "link")?, Tun::open_in(far.as_fd(), "link")?);
                Some(Emulator::start(one, other, profile, 1)?)
            }
        };
        for namespace in [&near, &far] {
            // With the default buffers, a stream carries at most 33 MB/s at a round trip of 80 ms.
            for sysctl in ["tcp_rmem", "tcp_wmem"] {
                let path = format!("/proc/sys/net/ipv4/{sysctl}");
                namespace.run(|| std::fs::write(&path, "4096 131072 67108864"))?;
            }
        }
        for (netlink, address) in [(&near_netlink, NEAR), (&far_netlink, FAR)] {
            netlink.add_address("link", address, 24).await?;
            netlink.set_up("link").await?;
        }
        let server = far.run(|| Server::bind((FAR, PORT).into()))?;
        thread::spawn(|| server.run());
        Ok(Self { near, near_netlink, emulator, _far: far })
    }

    fn measure(&self, settings: &MeasurementSettings) -> io::Result<Measurement> {
        self.near.run(|| measure_path((FAR, PORT).into(), settings))
    }
}

pub(crate) async fn measure(config: &BenchConfig, report: &ReportWriter) -> Result<()> {
    report.heading("Links: requested and measured");
    // If links cannot be created at all, fail once here instead of in every row of the tables.
    Link::new(Backend::Kernel, &LinkProfile::default()).await?;
    goodput(config, report).await;
    round_trips(config, report).await;
    loss(config, report).await;
    ceiling(config, report).await;
    applying(config, report).await
}

fn profile(key: &str, value: &str) -> Result<Profile> {
    Ok(serde_json::from_value(serde_json::json!({ key: value }))?)
}

/// Returns a table row for a figure that could not be measured, padded to `columns`.
fn failed(backend: Backend, what: &str, columns: usize, error: &dyn std::fmt::Display) -> Vec<String> {
    let mut row = vec![backend.name().into(), what.into()];
    row.resize(columns - 1, String::new());
    row.push(format!("not here: {error}"));
    row
}

fn emulator_cpu() -> Duration {
    cpu::of_threads(std::process::id(), |name| name.starts_with("link-"))
}

async fn goodput(config: &BenchConfig, report: &ReportWriter) {
    report.text(
        "\nGoodput of one TCP stream. Wanted: the share of the rate that is payload (1448 of each 1514 bytes \
         at an MTU of 1500),\nwithin 1 %, if a link without a rate carries half as much again just before. \
         Late: how late the emulator delivered packets, on average.\nCPU: of the emulator.\n",
    );
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        for rate in GOODPUT {
            progress(&format!("goodput, {}, {rate}", backend.name()));
            let row = goodput_of(config, backend, rate).await;
            rows.push(row.unwrap_or_else(|error| failed(backend, rate, 8, &error)));
        }
    }
    let headings = ["backend", "rate", "wanted MB/s", "got MB/s", "off", "late ms", "CPU", "wanted"];
    report.table(&headings, 2, &rows);
}

async fn goodput_of(config: &BenchConfig, backend: Backend, rate: &str) -> Result<Vec<String>> {
    let profile = profile("rate", rate)?;
    let link = Link::new(backend, &LinkProfile::symmetric(profile.clone())).await?;
    let bits = profile.rate.map_or(u64::MAX, units::BitRate::get);
    let nanos_between_probes = PROBE_FRAME_BITS * 1000 * 1_000_000_000 / bits;
    // During the warm-up, the token bucket and the queue fill and slow start ends.
    let (warm_up, counted) = match bits {
        ..5_000_000 => (config.span / 2, config.span * 2),
        _ => (config.span / 5, config.span),
    };
    let settings = MeasurementSettings {
        duration: warm_up + counted,
        warm_up,
        interval: Duration::from_nanos(nanos_between_probes.max(5_000_000)),
        idle_probes: 1,
    };
    let ceiling = unlimited(config, backend).await?;
    let (cpu, since) = (emulator_cpu(), Instant::now());
    let measured = link.measure(&settings)?;
    let share = emulator_cpu().saturating_sub(cpu).as_secs_f64() / since.elapsed().as_secs_f64();
    let wanted = tcp_payload(&profile, measured.segment).map_or(0.0, ByteRate::as_mb_per_s);
    let got = measured.goodput.as_mb_per_s();
    let off = got / wanted - 1.0;
    let [late, cpu] = link.emulator.as_ref().map_or_else(Default::default, |emulator| {
        let [forward, _] = emulator.statistics();
        [format!("{:.3}", forward.late.mean().as_millis_f64()), format!("{:.0}%", 100.0 * share)]
    });
    Ok(vec![
        backend.name().into(),
        rate.into(),
        format!("{wanted:.4}"),
        format!("{got:.4}"),
        percent(off),
        late,
        cpu,
        if off.abs() > 0.01 && ceiling < 1.5 * wanted {
            format!("the cores carry {ceiling:.0} MB/s without a rate")
        } else {
            format!("within 1%: {}", verdict(off.abs() <= 0.01))
        },
    ])
}

/// Measures the goodput of a link without a rate, in MB/s: what sender, receiver and emulator achieve with
/// the CPU time that they get.
async fn unlimited(config: &BenchConfig, backend: Backend) -> Result<f64> {
    let link = Link::new(backend, &LinkProfile::default()).await?;
    let duration = config.span / 5;
    let settings = MeasurementSettings {
        duration,
        warm_up: duration / 4,
        idle_probes: 1,
        ..MeasurementSettings::default()
    };
    Ok(link.measure(&settings)?.goodput.as_mb_per_s())
}

/// Returns settings for probes on an idle link. The stream is as short as possible.
fn probes(count: u32, interval: Duration) -> MeasurementSettings {
    MeasurementSettings {
        duration: Duration::from_millis(1),
        warm_up: Duration::ZERO,
        interval,
        idle_probes: count,
    }
}

async fn round_trips(config: &BenchConfig, report: &ReportWriter) {
    report.text(
        "\nRound trips of UDP probes without other traffic, with both directions delayed. Wanted: twice the \
         delay, within 2 % or 0.1 ms.\nThe row without a delay shows the time that the two ends and the path \
         take.\n",
    );
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        for delay in ["0ms"].into_iter().chain(DELAYS) {
            progress(&format!("round trips, {}, {delay}", backend.name()));
            let row = round_trips_of(config, backend, delay).await;
            rows.push(row.unwrap_or_else(|error| failed(backend, delay, 7, &error)));
        }
    }
    report.table(&["backend", "delay", "wanted ms", "p50 ms", "p99 ms", "off ms", "wanted"], 2, &rows);
}

async fn round_trips_of(config: &BenchConfig, backend: Backend, delay: &str) -> Result<Vec<String>> {
    let profile = profile("delay", delay)?;
    let link = Link::new(backend, &LinkProfile::symmetric(profile.clone())).await?;
    let measured = link.measure(&probes(50 * config.span.as_secs() as u32, Duration::from_millis(5)))?;
    let wanted = 2.0 * profile.delay.as_millis_f64();
    let [p50, p99] = [measured.idle.p50, measured.idle.p99].map(Span::as_millis_f64);
    let off = p50 - wanted;
    let holds = off.abs() <= (0.02 * wanted).max(0.1);
    Ok(vec![
        backend.name().into(),
        delay.into(),
        format!("{wanted:.1}"),
        format!("{p50:.3}"),
        format!("{p99:.3}"),
        format!("{off:+.3}"),
        format!("within 2% or 0.1 ms: {}", verdict(holds)),
    ])
}

async fn loss(config: &BenchConfig, report: &ReportWriter) {
    report.text(
        "\nLoss of UDP probes, in one direction. Wanted: a number of lost probes within the 99.9 % interval \
         of the binomial distribution.\n",
    );
    let mut rows = Vec::new();
    for backend in Backend::ALL {
        for loss in LOSSES {
            progress(&format!("loss, {}, {loss}", backend.name()));
            let row = loss_of(config, backend, loss).await;
            rows.push(row.unwrap_or_else(|error| failed(backend, loss, 6, &error)));
        }
    }
    report.table(&["backend", "loss", "sent", "lost", "bounds", "wanted"], 2, &rows);
}

async fn loss_of(config: &BenchConfig, backend: Backend, asked: &str) -> Result<Vec<String>> {
    let profile = profile("loss", asked)?;
    let part = profile.loss.fraction();
    let link = Link::new(backend, &LinkProfile { forward: profile, ..LinkProfile::default() }).await?;
    let measured = link.measure(&probes(1000 * config.span.as_secs() as u32, Duration::from_millis(1)))?;
    let (sent, lost) = (measured.idle.sent, measured.idle.sent - measured.idle.echoed);
    let (least, most) = binomial_bounds(sent, part);
    Ok(vec![
        backend.name().into(),
        asked.into(),
        sent.to_string(),
        lost.to_string(),
        format!("{least} to {most}"),
        format!("within bounds: {}", verdict((least..=most).contains(&lost))),
    ])
}

/// Returns bounds for how often an event of probability `part` (below 1) happens in `count` trials: the
/// narrowest ones that are missed with a probability of at most 1/2000 on each side.
fn binomial_bounds(count: u64, part: f64) -> (u64, u64) {
    const TAIL: f64 = 0.0005;
    // In logarithms, because the probability of no event at all can be too small for a float.
    let mut log_probability = count as f64 * (1.0 - part).ln();
    let (mut below, mut least) = (0.0, None);
    for events in 0..count {
        below += log_probability.exp();
        if below > TAIL {
            least.get_or_insert(events);
        }
        if below >= 1.0 - TAIL {
            return (least.unwrap_or(0), events);
        }
        log_probability += ((count - events) as f64 / (events + 1) as f64 * part / (1.0 - part)).ln();
    }
    (least.unwrap_or(0), count)
}

async fn ceiling(config: &BenchConfig, report: &ReportWriter) {
    let result = async {
        let link = Link::new(Backend::Userspace, &LinkProfile::default()).await?;
        let settings = MeasurementSettings {
            duration: config.span,
            warm_up: config.span / 5,
            idle_probes: 1,
            ..MeasurementSettings::default()
        };
        let (cpu, since) = (emulator_cpu(), Instant::now());
        let measured = link.measure(&settings)?;
        let share = emulator_cpu().saturating_sub(cpu).as_secs_f64() / since.elapsed().as_secs_f64();
        Ok::<_, crate::BoxedError>((measured.goodput.as_mb_per_s(), share))
    };
    report.text(&match result.await {
        Ok((rate, share)) => format!(
            "\nMaximum of the userspace backend, without a rate: {rate:.0} MB/s ({:.2} Gbit/s of goodput); \
             the emulator uses {:.0}% of a CPU.",
            rate * 8.0 / 1000.0,
            100.0 * share
        ),
        Err(error) => format!("\nMaximum of the userspace backend: not here: {error}"),
    });
}

/// Measures the time to apply a profile, by alternating between two rates.
async fn applying(config: &BenchConfig, report: &ReportWriter) -> Result<()> {
    let link = Link::new(Backend::Kernel, &LinkProfile::default()).await?;
    let rates = ["984mbit", "928mbit"];
    let times = if config.quick { 40 } else { 400 };
    let profiles = [profile("rate", rates[0])?, profile("rate", rates[1])?];
    let mut own = Vec::new();
    for number in 0..times {
        let since = Instant::now();
        link.near_netlink.apply("link", &profiles[number % 2]).await?;
        own.push(since.elapsed().as_secs_f64() * 1e3);
    }
    let netem = config.programs.join("netem");
    let program = |rate: &str| {
        let mut command = Command::new(&netem);
        command.args(["apply", "link", "--rate", rate]);
        command
    };
    let tc = |rate: &str| {
        let mut command = Command::new("tc");
        let words = format!("qdisc replace dev link root handle 1: tbf rate {rate} burst 246kb limit 3mb");
        command.args(words.split(' '));
        command
    };
    let own = median(&mut own);
    let program = time_of_program(&link, &rates, times, &program)?;
    link.near_netlink.clear("link").await?;
    report.text("\nMedian time to replace a profile by one with another rate\n");
    let mut rows = vec![
        vec!["library, in process".into(), format!("{own:.3}")],
        vec!["program netem".into(), format!("{program:.3}")],
    ];
    match time_of_program(&link, &rates, times, &tc) {
        Ok(tc) => {
            rows[0].push(format!("{:.3}", own / tc));
            rows[1].push(format!("{:.3}", program / tc));
            rows.push(vec!["tc".into(), format!("{tc:.3}"), "1".into()]);
        }
        Err(error) => {
            rows.push(vec!["tc".into(), String::new(), format!("not here: {error}")]);
        }
    }
    report.table(&["how", "ms", "of tc's time"], 1, &rows);
    Ok(())
}

fn time_of_program(
    link: &Link,
    rates: &[&str; 2],
    times: usize,
    program: &(dyn Fn(&str) -> Command + Sync),
) -> Result<f64> {
    let mut taken = Vec::new();
    for number in 0..times {
        let mut command = program(rates[number % 2]);
        command.stdout(Stdio::null()).stdin(Stdio::null());
        // Started from a thread in the namespace, so that the program runs there.
        let (status, took) = link.near.run(|| {
            let since = Instant::now();
            Ok((command.status()?, since.elapsed()))
        })?;
        if !status.success() {
            return Err(format!("{command:?} ended with {status}").into());
        }
        taken.push(took.as_secs_f64() * 1e3);
    }
    Ok(median(&mut taken))
}
