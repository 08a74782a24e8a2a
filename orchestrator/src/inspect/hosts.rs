//! What `testbed doctor` finds on the hosts of an inventory.

use super::observe::{Directory, Kvm, Observation};
use crate::{
    finding::Finding,
    image::GuestFiles,
    lab::{
        Description, Error,
        hosts::{
            inventory::Inventory,
            ssh::{Host, Hosts, Upload, quoted},
        },
        topology::{CONTROLLER_ADDRESS, GUESTS, MIGRATION, PREFIX, SHAPED_ADDRESSES},
    },
    matrix::Settings,
    node::{Node, protocol::Facts, round_trip::RoundTrip},
};
use jiff::Timestamp;
use std::{
    env::consts::ARCH,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};
use tokio::process::Child;
use units::BitRate;

/// A guest of 1 GiB and what QEMU needs besides, in bytes.
const ENOUGH_MEMORY: u64 = 1280 << 20;

/// Room for what a run puts into a directory of a host, in bytes.
const ENOUGH_ROOM: u64 = 100 << 20;

/// How many of the features that differ are named.
const NAMED: usize = 6;

/// Clocks this far apart are worth a word: the times in logs do not fit together.
const CLOCKS_APART: Duration = Duration::from_secs(1);

/// How long the far end of the migration link may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A node that runs, what was seen of its host, and the process that leads to it.
struct Running {
    node: Node,
    facts: Facts,
    seen: Option<Observation>,
    _process: Child,
}

/// What the inventory says of one host.
struct Wanted<'a> {
    name: &'static str,
    host: &'a str,
    /// Each with the node's name for it and the node's address on it.
    interfaces: Vec<(&'a str, &'static str, Option<Ipv4Addr>)>,
    runs_guests: bool,
}

/// Looks at every host, then at what they are to each other.
pub async fn examine(Hosts { inventory, way }: &Hosts, guest: &GuestFiles) -> Result<Vec<Finding>, Error> {
    let program = Upload::read(Path::new("/proc/self/exe"))?;
    let kernel = Upload::read(&guest.kernel)?;
    let [near, far] = SHAPED_ADDRESSES;
    let compute = |name, host, guests, migration, address| Wanted {
        name,
        host,
        interfaces: vec![(guests, GUESTS, None), (migration, MIGRATION, Some(address))],
        runs_guests: true,
    };
    let Inventory { controller, compute1, compute2, .. } = inventory;
    let hosts = [
        Wanted {
            name: "controller",
            host: &controller.host,
            interfaces: vec![(&controller.guests, GUESTS, Some(CONTROLLER_ADDRESS))],
            runs_guests: false,
        },
        compute("compute1", &compute1.host, &compute1.guests, &compute1.migration, near),
        compute("compute2", &compute2.host, &compute2.guests, &compute2.migration, far),
    ];
    let looks = hosts.each_ref().map(|wanted| {
        let (program, kernel) = (&program, &kernel);
        async move {
            let mut findings = Vec::new();
            let running =
                look(wanted, &way.host(wanted.host), inventory, program, kernel, &mut findings).await;
            (findings, running)
        }
    });
    let (findings, running): (Vec<_>, Vec<_>) = futures::future::join_all(looks).await.into_iter().unzip();
    let mut findings = findings.concat();
    if let Some(images) = &inventory.images {
        let [_, source, destination] = hosts.each_ref().map(|wanted| way.host(wanted.host));
        let on = running.get(1).and_then(Option::as_ref).and_then(|running| running.seen.as_ref());
        let on = on.and_then(|seen| seen.directories.iter().find(|directory| directory.path == *images));
        findings.extend(is_shared(&source, &destination, images, on).await);
    }
    if let [_, Some(source), Some(destination)] = &running[..] {
        findings.extend(compare(source, destination).await);
    }
    Ok(findings)
}

/// Looks at one host; its node, if it runs.
async fn look(
    wanted: &Wanted<'_>,
    host: &Host<'_>,
    inventory: &Inventory,
    program: &Upload,
    kernel: &Upload,
    findings: &mut Vec<Finding>,
) -> Option<Running> {
    let program = program_there(wanted, host, program, findings).await?;
    let mut put = vec![program.clone()];
    if wanted.runs_guests {
        match host.put(kernel, inventory.images.as_deref()).await {
            Ok(path) => {
                findings.push(Finding::ok(&named(wanted, "images"), path.as_str()));
                put.push(path);
            }
            Err(e) => {
                let remedy = "make room, or name another `images`";
                findings.push(Finding::missing(&named(wanted, "images"), e.to_string(), remedy));
            }
        }
    }
    let root = host.root_words(&program);
    let mut running = look_at(wanted, host, &root, findings).await?;
    let mut directories: Vec<&Path> = put.iter().filter_map(|path| Path::new(path).parent()).collect();
    directories.dedup();
    running.seen = observe(wanted, host, &root, &directories, &running, findings).await;
    Some(running)
}

/// Where this program is on the host, which can be reached and can run it.
async fn program_there(
    wanted: &Wanted<'_>,
    host: &Host<'_>,
    program: &Upload,
    findings: &mut Vec<Finding>,
) -> Option<String> {
    let mut missing = |what: &str, detail: String, remedy: &str| {
        findings.push(Finding::missing(&named(wanted, what), detail, remedy));
        None
    };
    match host.ask("uname -m").await {
        Ok(machine) if machine == ARCH => {}
        Ok(machine) => {
            let detail = format!("this program is for {ARCH}, the host is {machine}");
            return missing("program", detail, &format!("take a host that is {ARCH}, like this one"));
        }
        Err(error) => {
            let remedy = format!("`ssh {} true` has to work without a question", wanted.host);
            return missing("reach", error.to_string(), &remedy);
        }
    }
    let path = match host.put(program, None).await {
        Ok(path) => path,
        Err(error) => {
            let remedy = "make room in the cache directory of its user there";
            return missing("program", error.to_string(), remedy);
        }
    };
    match host.ask(&format!("exec {} --version", quoted(&path))).await {
        Ok(_) => Some(path),
        Err(error) => {
            let remedy = "the cache directory there must allow programs: mount it without noexec, or set XDG_CACHE_HOME";
            missing("program", error.to_string(), remedy)
        }
    }
}

/// Looks at what the host has, besides what its node says. `program` as for [`Host::observe`].
async fn observe(
    wanted: &Wanted<'_>,
    host: &Host<'_>,
    program: &str,
    directories: &[&Path],
    running: &Running,
    findings: &mut Vec<Finding>,
) -> Option<Observation> {
    let mut words: Vec<String> = Vec::new();
    for directory in directories {
        words.extend(["--directory".into(), directory.to_string_lossy().into_owned()]);
    }
    if wanted.runs_guests && running.facts.qemu.is_some() {
        words.push("--cpus".into());
    }
    let seen = match host.observe::<Observation>(program, &words).await {
        Ok(seen) => seen,
        Err(error) => {
            let remedy = format!("`testbed lab status` tells what of {} answers", wanted.host);
            findings.push(Finding::warning(&named(wanted, "host"), error.to_string(), remedy));
            return None;
        }
    };
    let mut enough = Vec::new();
    for directory in &seen.directories {
        let Directory { path, file_system, source, free_bytes } = directory;
        let detail =
            format!("{} MiB free in {} ({file_system} of {source})", free_bytes >> 20, path.display());
        if *free_bytes < ENOUGH_ROOM {
            let remedy = "make room there; what earlier versions left in it can go";
            findings.push(Finding::warning(&named(wanted, "space"), detail, remedy));
        } else {
            enough.push(detail);
        }
    }
    if !enough.is_empty() {
        findings.push(Finding::ok(&named(wanted, "space"), enough.join("; ")));
    }
    Some(seen)
}

/// Whether both computes see one directory of images; `on` is what it lies on at the source.
async fn is_shared(
    source: &Host<'_>,
    destination: &Host<'_>,
    images: &Path,
    on: Option<&Directory>,
) -> Option<Finding> {
    let name = format!(".testbed-{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
    let mark = quoted(&images.join(name).to_string_lossy());
    // Where it cannot be written, that has been found already.
    source.ask(&format!("set -C; : > {mark}")).await.ok()?;
    let seen = destination.ask(&format!("if test -e {mark}; then echo yes; fi")).await;
    let _ = source.ask(&format!("rm -f {mark}")).await;
    let on = on.map_or(String::new(), |on| format!(", {} of {}", on.file_system, on.source));
    let place = images.display();
    Some(if seen.ok()? == "yes" {
        Finding::ok("shared images", format!("both computes see one {place}{on}"))
    } else {
        Finding::warning(
            "shared images",
            format!("each compute has a {place} of its own{on}"),
            "export it by NFS from the controller and mount it on both; without disks, copies do as well",
        )
    })
}

fn named(wanted: &Wanted<'_>, what: &str) -> String {
    format!("{} {what}", wanted.name)
}

/// Looks at what the host's node says; the node, if it runs. `program` as for [`Host::observe`].
async fn look_at(
    wanted: &Wanted<'_>,
    host: &Host<'_>,
    program: &str,
    findings: &mut Vec<Finding>,
) -> Option<Running> {
    let mut missing = |what: &str, detail: String, remedy: &str| {
        findings.push(Finding::missing(&named(wanted, what), detail, remedy));
    };
    let started = async {
        let (node, process) = host.start_node(wanted.name, program).await?;
        let (asked, asked_at) = (Instant::now(), Timestamp::now());
        let facts = node.facts().await?;
        let asked = (asked.elapsed(), asked_at);
        let away = RoundTrip::to(&node).await?;
        Ok::<_, Error>((Running { node, facts, seen: None, _process: process }, asked, away))
    };
    let (running, (took, asked_at), away) = match started.await {
        Ok(started) => started,
        Err(error) => {
            missing(
                "root",
                error.to_string(),
                "let its user run sudo without a password, or log in as root and set `become: none`",
            );
            return None;
        }
    };
    let Running { node, facts, .. } = &running;
    for (interface, name, address) in &wanted.interfaces {
        let attached = async {
            node.attach(interface, name).await?;
            node.set_up(name, address.map(|address| (address, PREFIX))).await
        };
        if let Err(error) = attached.await {
            let remedy =
                format!("`ip -brief link` there lists its interfaces; the inventory names one for {name}");
            missing(name, error.to_string(), &remedy);
        }
    }
    if wanted.runs_guests && facts.qemu.is_none() {
        missing("QEMU", "there is none".into(), "install it there: Debian's package is qemu-system-x86");
    }
    let what = named(wanted, "host");
    findings.push(Finding::ok(
        &what,
        format!(
            "{}, {} CPUs, Linux {}, {:.1} ms there and back",
            facts.cpu_model, facts.cpus, facts.kernel, away.median_ms
        ),
    ));
    if wanted.runs_guests && facts.available_memory_bytes < ENOUGH_MEMORY {
        let free = facts.available_memory_bytes >> 20;
        let detail = format!("{free} MiB are free; a guest of 1 GiB needs {}", ENOUGH_MEMORY >> 20);
        findings.push(Finding::warning(
            &named(wanted, "memory"),
            detail,
            "choose smaller guests in the matrix",
        ));
    }
    // The answer was made somewhere between the question and its coming in.
    let apart = facts.clock.duration_since(asked_at).unsigned_abs();
    if apart > CLOCKS_APART + took {
        let detail = format!("its clock is {:.0} s off this one's", apart.as_secs_f64());
        findings.push(Finding::warning(
            &named(wanted, "clock"),
            detail,
            "let it keep time by NTP; no figure depends on it",
        ));
    }
    Some(running)
}

/// Looks at the two compute nodes together.
async fn compare(source: &Running, destination: &Running) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match (&source.facts.qemu, &destination.facts.qemu) {
        (Some(a), Some(b)) if a == b => Finding::ok("QEMU", format!("{a} on both")),
        (a, b) => {
            let version = |v: &Option<String>| v.clone().unwrap_or_else(|| "none".into());
            let detail = format!("{} at the source, {} at the destination", version(a), version(b));
            Finding::warning("QEMU", detail, "install the same version on both")
        }
    });
    if let (Some(source), Some(destination)) = (&source.seen, &destination.seen) {
        findings.push(kvm(&source.kvm, &destination.kvm));
        findings.extend(cpu_model(source, destination));
    }
    let answers = async {
        source.node.start_probe(SHAPED_ADDRESSES[1], Duration::from_millis(100), ANSWER_LIMIT).await?;
        source.node.stop_probe().await
    };
    findings.push(match answers.await {
        Ok(_) => Finding::ok("migration link", "compute2 answers compute1"),
        Err(error) => {
            let remedy = "both `migration` interfaces have to be on one wire, and up";
            Finding::missing("migration link", error.to_string(), remedy)
        }
    });
    let description = Description {
        kind: "ssh".into(),
        source: source.facts.clone(),
        destination: destination.facts.clone(),
        round_trips: None,
    };
    let shaped = netem::Profile { rate: Some(BitRate::new(1_000_000_000)), ..netem::Profile::default() };
    if let Some(reason) = description.lacks(&Settings { link: shaped, ..Settings::default() }) {
        findings.push(Finding::missing("shaping", reason, "load the module, or use a kernel that has it"));
    }
    findings
}

/// Whether both computes have KVM. A run takes what the source has.
fn kvm(source: &Kvm, destination: &Kvm) -> Finding {
    const NAME: &str = "KVM";
    const REMEDY: &str = "switch virtualization on in the firmware (in a VM: have its host nest it), and load kvm_intel or kvm_amd";
    let state = |kvm: &Kvm| match kvm {
        Kvm::Open => "opens".to_string(),
        Kvm::Closed(reason) => format!("does not open ({reason})"),
        Kvm::Absent => "is not there".to_string(),
    };
    let detail =
        format!("/dev/kvm {} at the source, {} at the destination", state(source), state(destination));
    match (source, destination) {
        (Kvm::Open, Kvm::Open) => Finding::ok(
            NAME,
            "/dev/kvm opens on both; whether a guest runs under it, a run finds out by trying",
        ),
        (Kvm::Open, _) => {
            Finding::missing(NAME, detail, format!("{REMEDY}; or set `guest.accel: tcg` in the matrix"))
        }
        _ => Finding::warning(NAME, format!("{detail}: guests are translated (TCG)"), REMEDY),
    }
}

/// Whether both computes can run the same CPU, in QEMU's own words: it knows what KVM leaves of a CPU, which
/// `/proc/cpuinfo` does not.
fn cpu_model(source: &Observation, destination: &Observation) -> Option<Finding> {
    const NAME: &str = "CPU model";
    let (a, b) = match (source.cpus.as_ref()?, destination.cpus.as_ref()?) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(error), _) | (_, Err(error)) => {
            let remedy = "start QEMU there by hand: it may say more";
            return Some(Finding::warning(NAME, error.as_str(), remedy));
        }
    };
    let Some(common) = a.common(b) else {
        let detail = format!(
            "no model that {} and {} can both run",
            source.facts.cpu_model, destination.facts.cpu_model
        );
        return Some(Finding::missing(
            NAME,
            detail,
            "take two hosts that are more alike, or the same QEMU on both",
        ));
    };
    if !(a.kvm && b.kvm) {
        return Some(Finding::ok(
            NAME,
            format!("under TCG it is QEMU that makes it; both can, for example {common}"),
        ));
    }
    let differences = a.differences(b);
    if differences.is_empty() {
        return Some(Finding::ok(NAME, "`host` has the same features on both, under KVM"));
    }
    let named: Vec<&str> = differences.iter().take(NAMED).copied().collect();
    let more = differences.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let detail = format!("under KVM, `host` is not the same on both: {}{more}", named.join(", "));
    Some(Finding::warning(
        NAME,
        detail,
        format!("set `guest.cpu: {common}` in the matrix, which both can run"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{driver::qemu::cpus::Cpus, finding::State, node::protocol::Privilege};

    #[test]
    fn kvm_at_the_source_alone_keeps_from_running() {
        let state = |source, destination| kvm(&source, &destination).state;
        let closed = || Kvm::Closed("Permission denied (os error 13)".into());
        assert_eq!(state(Kvm::Open, Kvm::Open), State::Ok);
        assert_eq!(state(Kvm::Open, Kvm::Absent), State::Missing);
        assert_eq!(state(closed(), Kvm::Open), State::Warning);
        assert_eq!(state(Kvm::Absent, Kvm::Absent), State::Warning);
        assert!(kvm(&Kvm::Open, &closed()).detail.contains("at the destination"));
    }

    fn seen(kvm: bool, models: &[&str], host: &[(&str, bool)]) -> Observation {
        let cpus = Cpus {
            kvm,
            models: models.iter().map(ToString::to_string).collect(),
            host: host.iter().map(|(name, on)| ((*name).to_string(), (*on).into())).collect(),
        };
        let facts = Facts {
            version: String::new(),
            kernel: String::new(),
            cpu_model: "a CPU".into(),
            cpus: 2,
            memory_bytes: 0,
            privilege: Privilege::Root,
            features: std::collections::BTreeSet::new(),
            no_emulator: None,
            available_memory_bytes: 0,
            clock: Timestamp::UNIX_EPOCH,
            qemu: None,
        };
        let (interfaces, directories, nodes) = (Vec::new(), Vec::new(), Vec::new());
        Observation { facts, kvm: Kvm::Open, interfaces, directories, cpus: Some(Ok(cpus)), nodes }
    }

    #[test]
    fn a_model_for_two_unlike_hosts_is_named() {
        let old = seen(true, &["qemu64", "Haswell", "host"], &[("avx", true), ("avx512f", false)]);
        let new =
            seen(true, &["qemu64", "Haswell", "Skylake-Server", "host"], &[("avx", true), ("avx512f", true)]);
        assert_eq!(cpu_model(&old, &old).unwrap().state, State::Ok);
        let unlike = cpu_model(&old, &new).unwrap();
        assert_eq!(unlike.state, State::Warning);
        assert!(unlike.detail.ends_with("avx512f"), "{unlike:?}");
        assert!(unlike.remedy.unwrap().contains("guest.cpu: Haswell"));
        let none = cpu_model(&old, &seen(true, &["host"], &[])).unwrap();
        assert_eq!(none.state, State::Missing, "`host` is another CPU on each");
        let silent = Observation { cpus: Some(Err("it ended".into())), ..old.clone() };
        assert_eq!(cpu_model(&old, &silent).unwrap().detail, "it ended");
        let translated = seen(false, &["qemu64", "max"], &[]);
        assert_eq!(cpu_model(&translated, &translated).unwrap().state, State::Ok);
    }
}
