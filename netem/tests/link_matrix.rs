//! Links of many kinds with each backend: the requested properties beside the measured ones.
//!
//! Each backend makes the same links, and numbered datagrams cross them in one direction. The assertions
//! cover only what a busy host does not change: how many packets are lost, how losses follow each other,
//! whether packets overtake each other, and that no packet is early. With `LINK_MATRIX=full`, as `cargo xtask
//! bench instruments` runs it, the links with a rate are included too, and delays and rates are measured for
//! longer and printed with their bounds.
#![allow(clippy::print_stdout, reason = "the output is the table, and why a test was skipped")]

mod common;

use common::{FAR, NEAR, bounds, namespace, pair};
use netem::{
    Feature, LinkProfile, Namespace, Netlink, Profile,
    kernel::supported,
    userspace::{Emulator, Tun},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use std::{
    fs::OpenOptions,
    io::IoSliceMut,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The number of the last datagram of a measurement. It is repeated until it arrives.
const END: u64 = u64::MAX;
/// The size of the receiver's buffer, in bytes. A busy host may not run the receiver for long.
const BUFFER: usize = 16 << 20;
/// The largest number of packets that wait for the emulator: a TUN device holds 500.
const MAX_WAITING: u64 = 300;
/// The payload of a small datagram, whose frame is 106 bytes.
const SMALL: usize = 64;
/// The payload of the largest datagram, whose frame is 1514 bytes.
const LARGE: usize = 1472;

/// Two connected namespaces, of which the near one sends.
struct Link {
    backend: &'static str,
    near: Namespace,
    far: Namespace,
    near_netlink: Netlink,
    emulator: Option<Emulator>,
}

impl Link {
    /// Creates a link with the kernel's qdiscs; `None` if that is not possible here.
    async fn kernel() -> Option<Self> {
        let pair = pair().await?;
        if !can_buffer(&pair.near_namespace) {
            return None;
        }
        if !supported().await.unwrap().contains(&Feature::Netem) {
            println!("skipped: this kernel has no sch_netem");
            return None;
        }
        Some(Self {
            backend: "kernel",
            near: pair.near_namespace,
            far: pair.far_namespace,
            near_netlink: pair.near,
            emulator: None,
        })
    }

    /// Creates an emulated link; `None` if that is not possible here.
    async fn userspace() -> Option<Self> {
        if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
            println!("skipped: /dev/net/tun: {error}");
            return None;
        }
        let (near, far) = (namespace()?, namespace()?);
        if !can_buffer(&near) {
            return None;
        }
        let mut tuns = Vec::new();
        for (namespace, address) in [(&near, NEAR), (&far, FAR)] {
            tuns.push(Tun::open_in(namespace.as_fd(), "near").unwrap());
            let netlink = Netlink::open_in(namespace.as_fd()).unwrap();
            netlink.add_address("near", address, 24).await.unwrap();
            netlink.set_up("near").await.unwrap();
        }
        let (far_tun, near_tun) = (tuns.pop().unwrap(), tuns.pop().unwrap());
        let emulator = Emulator::start(near_tun, far_tun, &LinkProfile::default(), 42).unwrap();
        let near_netlink = Netlink::open_in(near.as_fd()).unwrap();
        Some(Self { backend: "userspace", near, far, near_netlink, emulator: Some(emulator) })
    }

    async fn shape(&self, profile: &Profile) {
        match &self.emulator {
            None => {
                // Start from an empty link, so that no state of the previous profile is left.
                self.near_netlink.clear("near").await.unwrap();
                self.near_netlink.apply("near", profile).await.unwrap();
            }
            Some(emulator) => {
                let link = LinkProfile { forward: profile.clone(), ..LinkProfile::default() };
                emulator.change(&link).unwrap();
            }
        }
    }

    /// Returns how many packets the emulator has received so far; 0 without one.
    fn received(&self) -> u64 {
        self.emulator.as_ref().map_or(0, |emulator| emulator.statistics()[0].received_packets)
    }

    /// Returns how many of the `sent` packets wait for the emulator, which had received `before` packets
    /// previously.
    fn waiting(&self, sent: u64, before: u64) -> u64 {
        if self.emulator.is_none() { 0 } else { sent.saturating_sub(self.received() - before) }
    }

    /// Sends `count` datagrams with `payload` bytes, one in each `interval`.
    fn send(&self, count: u64, interval: Duration, payload: usize) -> Flow {
        let receiver = self.far.run(|| UdpSocket::bind((FAR, 0))).unwrap();
        setsockopt(&receiver, sockopt::ReceiveTimestampns, &true).unwrap();
        setsockopt(&receiver, sockopt::RcvBufForce, &BUFFER).unwrap();
        let sender = self.near.run(|| UdpSocket::bind((NEAR, 0))).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let (ended, before) = (AtomicBool::new(false), self.received());
        thread::scope(|scope| {
            let receiving = scope.spawn(|| receive(&receiver, &ended));
            let sending = scope.spawn(|| {
                // Timers of the kernel's qdisc run where it was last used, so packets stay on one CPU.
                let mut cpus = CpuSet::new();
                cpus.set(0).unwrap();
                let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
                let mut packet = vec![0; payload];
                let mut sent = Vec::new();
                let start = Instant::now();
                for number in 0..count {
                    let due = interval * number as u32;
                    thread::sleep(due.saturating_sub(start.elapsed()));
                    packet[..8].copy_from_slice(&number.to_be_bytes());
                    while self.waiting(number, before) > MAX_WAITING {
                        thread::sleep(Duration::from_millis(1));
                    }
                    sent.push(now());
                    sender.send(&packet).unwrap();
                }
                packet[..8].copy_from_slice(&END.to_be_bytes());
                while !ended.load(Ordering::Relaxed) {
                    sender.send(&packet).unwrap();
                    thread::sleep(Duration::from_millis(5));
                }
                sent
            });
            Flow { sent: sending.join().unwrap(), arrived: receiving.join().unwrap() }
        })
    }
}

/// Returns whether the receiver may have a large buffer. Prints why not.
fn can_buffer(namespace: &Namespace) -> bool {
    let socket = namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    let set = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
    if let Err(error) = set {
        println!("skipped: a socket cannot have a buffer of {BUFFER} bytes: {error}; run this as root");
    }
    set.is_ok()
}

/// The wall clock, in nanoseconds.
fn now() -> i64 {
    nanos(clock_gettime(ClockId::CLOCK_REALTIME).unwrap())
}

fn nanos(time: TimeSpec) -> i64 {
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

/// Receives datagrams until the last one has arrived, and also those that it has overtaken. Returns their
/// numbers and when the kernel received them.
fn receive(socket: &UdpSocket, ended: &AtomicBool) -> Vec<(u64, i64)> {
    let mut arrived = Vec::new();
    let mut packet = [0; LARGE];
    let mut control = nix::cmsg_space!(TimeSpec);
    loop {
        let patience = if ended.load(Ordering::Relaxed) { Some(Duration::from_millis(100)) } else { None };
        socket.set_read_timeout(patience).unwrap();
        let mut buffers = [IoSliceMut::new(&mut packet)];
        let message = match recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut buffers,
            Some(&mut control),
            MsgFlags::empty(),
        ) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN) => return arrived,
            Err(error) => panic!("{error}"),
        };
        let time = message.cmsgs().unwrap().find_map(|c| match c {
            ControlMessageOwned::ScmTimestampns(time) => Some(nanos(time)),
            _ => None,
        });
        let time = time.expect("the kernel's timestamp");
        match u64::from_be_bytes(packet[..8].try_into().unwrap()) {
            END => ended.store(true, Ordering::Relaxed),
            number => arrived.push((number, time)),
        }
    }
}

/// The datagrams that were sent and those that arrived.
struct Flow {
    /// When each datagram was sent, in nanoseconds.
    sent: Vec<i64>,
    /// The numbers in the order of arrival, and when they arrived.
    arrived: Vec<(u64, i64)>,
}

impl Flow {
    /// Returns how many datagrams were lost, how many followed a lost one, and how many of those were lost.
    fn losses(&self) -> (u64, u64, u64) {
        let mut lost = vec![true; self.sent.len()];
        for (number, _) in &self.arrived {
            lost[*number as usize] = false;
        }
        let count = lost.iter().filter(|lost| **lost).count() as u64;
        let after = lost.windows(2).filter(|two| two[0]);
        let (pairs, both) = after.fold((0, 0), |(n, both), two| (n + 1, both + u64::from(two[1])));
        (count, pairs, both)
    }

    /// Returns how many datagrams left the link after one that was sent later, by the kernel's timestamps.
    ///
    /// The order of arrival is not enough: a packet of the kernel itself, such as one of neighbor discovery,
    /// moves the timer of a qdisc to another CPU. The packets then wait in the queues of both CPUs, and the
    /// socket gets those of the slower one too late.
    fn overtaken(&self) -> usize {
        let late = self.arrived.iter().enumerate().filter(|(position, (number, time))| {
            self.arrived[..*position].iter().any(|(other, at)| other > number && at < time)
        });
        late.count()
    }

    /// Returns the delays, in milliseconds.
    fn delays(&self) -> Vec<f64> {
        let delay = |(number, time): &(u64, i64)| (time - self.sent[*number as usize]) as f64 / 1e6;
        self.arrived.iter().map(delay).collect()
    }

    /// Returns how long sending took, in milliseconds.
    fn span(&self) -> f64 {
        (self.sent[self.sent.len() - 1] - self.sent[0]) as f64 / 1e6
    }

    /// Returns the rate in Mbit/s at which frames of 1514 bytes arrived, leaving out the first third of the
    /// time, and that time in milliseconds.
    fn rate(&self) -> (f64, f64) {
        let mut times: Vec<i64> = self.arrived.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        let from = times[0] + (times[times.len() - 1] - times[0]) / 3;
        let rest: Vec<i64> = times.into_iter().filter(|time| *time >= from).collect();
        let nanos = (rest[rest.len() - 1] - rest[0]) as f64;
        ((rest.len() - 1) as f64 * 1514.0 * 8.0 * 1e3 / nanos, nanos / 1e6)
    }
}

/// Properties of a set of delays, in milliseconds.
struct Summary {
    mean: f64,
    median: f64,
    /// The distance of the quartiles.
    spread: f64,
    shortest: f64,
}

impl Summary {
    fn of(mut delays: Vec<f64>) -> Self {
        delays.sort_by(f64::total_cmp);
        let quartile = |number: usize| delays[delays.len() * number / 4];
        Self {
            mean: delays.iter().sum::<f64>() / delays.len() as f64,
            median: quartile(2),
            spread: quartile(3) - quartile(1),
            shortest: delays[0],
        }
    }
}

/// The jitter of a link, in milliseconds.
#[derive(Clone, Copy)]
struct Jitter {
    distribution: &'static str,
    setting: f64,
}

impl Jitter {
    const NONE: Self = Self { distribution: "exponential", setting: 0.0 };

    fn in_order(self) -> bool {
        self.distribution == "exponential"
    }

    /// Returns the expected distance of mean and median from the delay, and of the quartiles from each other,
    /// in jitters.
    fn wanted(self) -> [f64; 3] {
        match self.distribution {
            "uniform" => [0.0, 0.0, 1.0],
            // iproute2's table, which ends at 4.
            "pareto" => [-0.0335, -0.3201, 0.6490],
            _ => [0.0, 2.0_f64.ln() - 1.0, 3.0_f64.ln()],
        }
    }

    /// Returns how far the median of a measurement may be off: five standard deviations. At a gate, delays
    /// are correlated over one jitter in each direction.
    fn statistical_bound(self, packets: f64, span: f64) -> f64 {
        if self.setting <= 0.0 {
            return 0.0;
        }
        let independent = if self.in_order() { packets.min(span / (2.0 * self.setting)) } else { packets };
        5.0 * self.setting / independent.sqrt()
    }

    /// Returns whether delays are as expected. A busy host holds some packets for longer, which moves the
    /// mean, but not the quartiles.
    fn holds(self, delay: f64, found: &Summary, bound: f64) -> bool {
        let [_, median, spread] = self.wanted().map(|jitters| jitters * self.setting);
        (found.median - delay - median).abs() <= bound + HOST
            && (found.spread - spread).abs() <= 2.0 * bound + HOST
    }
}

fn is_full() -> bool {
    std::env::var_os("LINK_MATRIX").is_some_and(|value| value == "full")
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "misses" }
}

/// How much longer than requested the median of delays may be because of the host, in milliseconds: the time
/// of both ends, and timers that fire late.
const HOST: f64 = 0.5;

fn profile(delay: f64, jitter: Jitter, loss: &str, correlation: &str, rate: Option<&str>) -> Profile {
    let mut settings = serde_json::json!({ "delay": format!("{}us", delay * 1e3) });
    if jitter.setting > 0.0 {
        settings["jitter"] = format!("{}us", jitter.setting * 1e3).into();
        settings["distribution"] = jitter.distribution.into();
    }
    for (key, value) in [("loss", loss), ("loss_correlation", correlation)] {
        if value != "0%" {
            settings[key] = value.into();
        }
    }
    if let Some(rate) = rate {
        settings["rate"] = rate.into();
    }
    let profile: Profile = serde_json::from_value(settings).unwrap();
    profile.validate().unwrap();
    profile
}

async fn matrix(link: &Link) {
    const LOSSES: [(&str, &str); 5] =
        [("0%", "0%"), ("1%", "0%"), ("10%", "0%"), ("10%", "25%"), ("10%", "50%")];
    println!(
        "| {:9} delay jitter         loss corr rate   | sent lost    bounds again    bounds overtaken | \
         mean wanted | median wanted | spread wanted | Mbit/s",
        link.backend
    );
    let rates = if is_full() { &[None, Some("50mbit")][..] } else { &[None] };
    for delay in [5.0, 20.0] {
        for kind in ["none", "exponential", "uniform"] {
            let jitter = match kind {
                "none" => Jitter::NONE,
                distribution => Jitter { distribution, setting: 0.4 * delay },
            };
            for (loss, correlation) in LOSSES {
                for rate in rates {
                    let profile = profile(delay, jitter, loss, correlation, *rate);
                    point(link, &profile, delay, jitter).await;
                }
            }
        }
    }
}

async fn point(link: &Link, profile: &Profile, delay: f64, jitter: Jitter) {
    let count = if is_full() { 4000 } else { 1000 };
    let interval = Duration::from_micros(300);
    link.shape(profile).await;
    let flow = link.send(count, interval, SMALL);
    let (p, r) = (profile.loss.fraction(), profile.loss_correlation.fraction());
    let (lost, pairs, both) = flow.losses();
    let (least, most) = bounds(count, p, r);
    let (least_again, most_again) = bounds(pairs, p + r * (1.0 - p), 0.0);
    let overtaken = flow.overtaken();
    let found = Summary::of(flow.delays());
    let kept = (least..=most).contains(&lost)
        && (least_again..=most_again).contains(&both)
        && (overtaken == 0) == jitter.in_order();
    let bound = jitter.statistical_bound((count - lost) as f64, flow.span());
    let mut holds = kept && jitter.holds(delay, &found, bound);
    let mut measured_rate = String::new();
    if let Some(rate) = profile.rate.filter(|_| is_full()) {
        let wanted = rate.get() as f64 / 1e6;
        // Half as much again as the link carries.
        let interval = Duration::from_secs_f64(1514.0 * 8.0 / (1.5e6 * wanted));
        let count = (600.0 + 50.0 * jitter.setting) / 1e3 / interval.as_secs_f64();
        let (found, span) = link.send(count as u64, interval, LARGE).rate();
        // Jitter moves the first and the last frame.
        holds &= (found / wanted - 1.0).abs() <= 0.01 + 4.0 * jitter.setting / span;
        measured_rate = format!("{found:7.3}");
    }
    let kind = if jitter.setting > 0.0 { jitter.distribution } else { "" };
    println!(
        "| {:9} {delay:4} {:>4} {kind:11} {:>4} {:>4} {:6} | {count:4} {lost:4} {:>9} {both:5} {:>9} \
         {overtaken:9} | {} | {measured_rate:7} {}",
        link.backend,
        jitter.setting,
        profile.loss.to_string(),
        profile.loss_correlation.to_string(),
        profile.rate.map_or_else(String::new, |rate| rate.to_string()),
        format!("{least}-{most}"),
        format!("{least_again}-{most_again}"),
        beside(delay, jitter, &found, ""),
        verdict(holds),
    );
    assert!(kept, "{}: {profile:?}", link.backend);
    assert_no_packet_is_early(&found, delay, jitter);
}

/// Returns the measured values beside the expected ones; `bound` is shown after the median.
fn beside(delay: f64, jitter: Jitter, found: &Summary, bound: &str) -> String {
    let [mean, median, spread] = jitter.wanted().map(|jitters| jitters * jitter.setting);
    format!(
        "{:5.2} {:6.2} | {:6.2} {:6.2}{bound} | {:6.2} {spread:6.2}",
        found.mean,
        delay + mean,
        found.median,
        delay + median,
        found.spread
    )
}

/// The emulator counts the time that it takes to wake up, at most 0.2 ms, to a packet.
fn assert_no_packet_is_early(found: &Summary, delay: f64, jitter: Jitter) {
    let least = delay - jitter.setting;
    assert!(found.shortest >= least - 0.2, "{} ms instead of at least {least}", found.shortest);
}

/// The same jitter at four packet rates: mean and spread must not depend on the rate.
async fn packet_rates(link: &Link) {
    println!(
        "| {:9} delay jitter         every ms | sent overtaken | mean wanted | median wanted   bound | \
         spread wanted",
        link.backend
    );
    let delay = 20.0;
    for distribution in ["exponential", "uniform", "pareto"] {
        let jitter = Jitter { distribution, setting: 10.0 };
        let profile = profile(delay, jitter, "0%", "0%", None);
        link.shape(&profile).await;
        for interval_us in [100_000, 10_000, 1_000, 300] {
            let span_us = if is_full() { 6_000_000 } else { 500_000 };
            let flow = link.send(span_us / interval_us, Duration::from_micros(interval_us), SMALL);
            let overtaken = flow.overtaken();
            let found = Summary::of(flow.delays());
            let bound = jitter.statistical_bound(flow.arrived.len() as f64, flow.span());
            println!(
                "| {:9} {delay:4} {:>4} {distribution:11} {:9} | {:5} {overtaken:9} | {} | {}",
                link.backend,
                jitter.setting,
                interval_us as f64 / 1e3,
                flow.sent.len(),
                beside(delay, jitter, &found, &format!(" {:7.2}", bound + HOST)),
                verdict(jitter.holds(delay, &found, bound)),
            );
            assert_eq!(flow.losses().0, 0, "{distribution}, {interval_us} us");
            if jitter.in_order() {
                assert_eq!(overtaken, 0, "{interval_us} us");
            } else if interval_us < 10_000 {
                assert!(overtaken > 0, "{distribution}, {interval_us} us");
            }
            assert_no_packet_is_early(&found, delay, jitter);
        }
    }
}

#[test]
fn only_packets_that_leave_the_link_late_are_overtaken() {
    let overtaken = |arrived: &[(u64, i64)]| Flow { sent: vec![0; 3], arrived: arrived.to_vec() }.overtaken();
    assert_eq!(overtaken(&[(1, 20), (0, 10), (2, 30)]), 0, "the socket got 0 late");
    assert_eq!(overtaken(&[(1, 20), (0, 25), (2, 30)]), 1, "the link held 0");
}

/// Compares the bounds with the sums of the binomial distribution.
#[test]
fn less_than_one_count_in_a_million_is_out_of_bounds() {
    for tries in [1, 10, 12, 100, 1000] {
        for probability in [0.01, 0.1, 0.5, 0.9] {
            let (least, most) = bounds(tries, probability, 0.0);
            let odds = probability / (1.0 - probability);
            let mut of_count = (1.0 - probability).powi(tries as i32);
            let mut outside = 0.0;
            for count in 0..=tries {
                if !(least..=most).contains(&count) {
                    outside += of_count;
                }
                of_count *= odds * (tries - count) as f64 / (count + 1) as f64;
            }
            assert!(outside < 1e-6, "{tries} times {probability}: {outside}");
        }
    }
    assert_eq!((bounds(1000, 0.0, 0.0), bounds(1000, 1.0, 0.0)), ((0, 0), (1000, 1000)));
}

#[tokio::test]
async fn links_of_the_kernel_do_what_is_asked() {
    let Some(link) = Link::kernel().await else { return };
    matrix(&link).await;
    packet_rates(&link).await;
}

#[tokio::test]
async fn emulated_links_do_what_is_asked() {
    let Some(link) = Link::userspace().await else { return };
    matrix(&link).await;
    packet_rates(&link).await;
}
