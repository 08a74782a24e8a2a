//! Measures both backends between two namespaces of its own and prints a table: what was asked for, what one
//! TCP stream carried, round trips, loss, and what the emulator cost.
//!
//!     cargo run --release -p netem --example links [SECONDS]
//!
//! Run it on a machine that does nothing else, as root or under `unshare --user --map-root-user --net`.

use netem::{
    Error, LinkProfile, Namespace, Netlink, Profile,
    measure::{Server, Settings, measure, tcp_payload},
    userspace::{Emulator, Tun},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    thread,
    time::Duration,
};

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const PORT: u16 = 5202;

/// Two namespaces with an interface called `link` in each, and a server at the far end.
struct Lab {
    near: Namespace,
    far: Namespace,
    near_link: Netlink,
    far_link: Netlink,
}

impl Lab {
    fn new() -> Result<Self, Error> {
        let (near, far) = (Namespace::new()?, Namespace::new()?);
        let near_link = Netlink::open_in(near.as_fd())?;
        let far_link = Netlink::open_in(far.as_fd())?;
        Ok(Self { near, far, near_link, far_link })
    }

    async fn plumb(&self) -> Result<(), Error> {
        for namespace in [&self.near, &self.far] {
            // Else a stream with 80 ms of round trip carries 33 MB/s, whatever the link.
            for setting in ["tcp_rmem", "tcp_wmem"] {
                let path = format!("/proc/sys/net/ipv4/{setting}");
                if let Err(error) = namespace.run(|| std::fs::write(&path, "4096 131072 67108864")) {
                    println!("{path}: {error}; long links will be limited by TCP's buffers");
                }
            }
        }
        for (netlink, address) in [(&self.near_link, NEAR), (&self.far_link, FAR)] {
            netlink.add_address("link", address, 24).await?;
            netlink.set_up("link").await?;
        }
        let server = self.far.run(|| Server::bind((FAR, PORT).into()));
        let server = server.map_err(|source| Error::System { doing: "serve".into(), source })?;
        thread::spawn(|| server.run());
        Ok(())
    }

    fn report(
        &self,
        backend: &str,
        text: &str,
        profile: &Profile,
        settings: &Settings,
        note: &dyn Fn() -> String,
    ) {
        let address = SocketAddr::from((FAR, PORT));
        let cpu = cpu_time();
        let measured = match self.near.run(|| measure(address, settings)) {
            Ok(measured) => measured,
            Err(error) => {
                println!("{backend:<9} {text:<58} {error}");
                return;
            }
        };
        let spent = cpu_time().saturating_sub(cpu);
        let wanted = tcp_payload(profile, 1500).map_or(0.0, units::ByteRate::as_mb_per_s);
        let got = measured.goodput.as_mb_per_s();
        let share = if wanted > 0.0 { format!("{:+.2}%", 100.0 * (got / wanted - 1.0)) } else { "-".into() };
        let millis = |span: units::Span| span.as_millis_f64();
        println!(
            "{backend:<9} {text:<58} {wanted:>8.2} {got:>8.2} {share:>8} {:>8.3} {:>8.3} {:>8.3} {:>7.2}% {:>7.2}s {}",
            millis(measured.idle.p50),
            millis(measured.loaded.p50),
            millis(measured.loaded.p99),
            100.0 * measured.idle.loss(),
            spent.as_secs_f64(),
            note()
        );
    }
}

/// What this process has used, measuring included.
fn cpu_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    clock.now().map(Duration::from).unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(4);
    let duration = Duration::from_secs(seconds);
    let settings = Settings { duration, warm_up: duration / 4, ..Settings::default() };
    println!(
        "{:<9} {:<58} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "backend", "profile", "MB/s", "got", "error", "idle ms", "loaded", "p99", "lost", "cpu"
    );
    for text in [
        r#"{"rate":"1mbit"}"#,
        r#"{"rate":"10mbit"}"#,
        r#"{"rate":"100mbit"}"#,
        r#"{"rate":"928mbit"}"#,
        r#"{"rate":"940mbit"}"#,
        r#"{"rate":"984mbit"}"#,
        r#"{"rate":"984mbit","shaper":"htb"}"#,
        r#"{"rate":"5gbit"}"#,
    ] {
        let lab = Lab::new()?;
        lab.near_link.add_veth("link", "link", Some(lab.far.as_fd())).await?;
        lab.plumb().await?;
        let profile: Profile = serde_json::from_str(text).expect("a profile");
        lab.near_link.apply("link", &profile).await?;
        lab.far_link.apply("link", &profile).await?;
        lab.report("kernel", text, &profile, &settings, &String::new);
    }
    for text in [
        r#"{"rate":"10mbit","delay":"20ms"}"#,
        r#"{"rate":"984mbit"}"#,
        r#"{"rate":"984mbit","delay":"2500us"}"#,
        r#"{"rate":"984mbit","delay":"20ms"}"#,
        r#"{"rate":"984mbit","delay":"40ms"}"#,
        r#"{"rate":"500mbit","delay":"5ms","jitter":"500us"}"#,
        r#"{"rate":"100mbit","delay":"5ms","loss":"1%"}"#,
        r#"{"rate":"5gbit"}"#,
        "{}",
    ] {
        let lab = Lab::new()?;
        let (near, far) = (Tun::open_in(lab.near.as_fd(), "link")?, Tun::open_in(lab.far.as_fd(), "link")?);
        let profile: Profile = serde_json::from_str(text).expect("a profile");
        let emulator = Emulator::start(near, far, &LinkProfile::symmetric(profile.clone()), 1)?;
        lab.plumb().await?;
        lab.report("userspace", text, &profile, &settings, &|| {
            let [forward, _] = emulator.statistics();
            let [mean, worst] = [forward.late.mean(), forward.late.worst].map(units::Span::as_millis_f64);
            format!("late by {mean:.3} ms, at worst {worst:.3}; dropped {}", forward.dropped)
        });
    }
    Ok(())
}
