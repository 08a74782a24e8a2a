//! What `testbed doctor --lab` finds on the hosts of an inventory.

use super::{
    CONTROLLER_ADDRESS, Description, Error, GUESTS, MIGRATION, PREFIX, SHAPED_ADDRESSES,
    inventory::Inventory,
    ssh::{Host, Upload, Way},
};
use crate::{
    guest::GuestFiles,
    matrix::Settings,
    node::{Node, protocol::Facts},
    setup::doctor::Finding,
};
use jiff::Timestamp;
use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};
use tokio::process::Child;
use units::BitRate;

/// A guest of 1 GiB and what QEMU needs besides, in bytes.
const ENOUGH_MEMORY: u64 = 1280 << 20;

/// Clocks this far apart are worth a word: the times in logs do not fit together.
const CLOCKS_APART: Duration = Duration::from_secs(1);

/// How long the far end of the migration link may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A node that runs, and the process that leads to it.
struct Running {
    node: Node,
    facts: Facts,
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
pub(super) async fn examine(inventory: &Inventory, guest: &GuestFiles) -> Result<Vec<Finding>, Error> {
    let way = Way::of(inventory);
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
    let mut findings = Vec::new();
    let mut running = Vec::new();
    for wanted in &hosts {
        let host = way.host(wanted.host);
        running.push(look_at(wanted, &host, &program, &mut findings).await);
        if wanted.runs_guests {
            findings.push(match host.put(&kernel, inventory.images.as_deref()).await {
                Ok(path) => Finding::ok(&named(wanted, "images"), path),
                Err(e) => Finding::missing(
                    &named(wanted, "images"),
                    e.to_string(),
                    "make room, or name another `images`",
                ),
            });
        }
    }
    if let [_, Some(source), Some(destination)] = &running[..] {
        findings.extend(compare(source, destination).await);
    }
    Ok(findings)
}

fn named(wanted: &Wanted<'_>, what: &str) -> String {
    format!("{} {what}", wanted.name)
}

/// Looks at one host; its node, if it runs.
async fn look_at(
    wanted: &Wanted<'_>,
    host: &Host<'_>,
    program: &Upload,
    findings: &mut Vec<Finding>,
) -> Option<Running> {
    let mut missing = |what: &str, detail: String, remedy: &str| {
        findings.push(Finding::missing(&named(wanted, what), detail, remedy));
    };
    if let Err(error) = host.put(program, None).await {
        let remedy = format!("`ssh {} true` has to work without a question", wanted.host);
        missing("reach", error.to_string(), &remedy);
        return None;
    }
    let started = async {
        let (node, process) = host.start_node(wanted.name, program).await?;
        let asked = (Instant::now(), Timestamp::now());
        let facts = node.facts().await?;
        Ok::<_, Error>((Running { node, facts, _process: process }, asked))
    };
    let (running, (asked, asked_at)) = match started.await {
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
        format!("{}, {} CPUs, Linux {}", facts.cpu_model, facts.cpus, facts.kernel),
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
    // The answer was made somewhere between the question and now.
    let apart = facts.clock.duration_since(asked_at).unsigned_abs();
    if apart > CLOCKS_APART + asked.elapsed() {
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
    findings.push(if source.facts.cpu_model == destination.facts.cpu_model {
        Finding::ok("CPU model", "the same on both")
    } else {
        let detail = format!("{} and {}", source.facts.cpu_model, destination.facts.cpu_model);
        Finding::warning("CPU model", detail, "under KVM, set `guest.cpu` to a model that both can run")
    });
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
    };
    let shaped = netem::Profile { rate: Some(BitRate::new(1_000_000_000)), ..netem::Profile::default() };
    if let Some(reason) = description.lacks(&Settings { link: shaped, ..Settings::default() }) {
        findings.push(Finding::missing("shaping", reason, "load the module, or use a kernel that has it"));
    }
    findings
}
