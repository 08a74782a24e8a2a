//! The checks of `testbed doctor` on the hosts of an inventory.
//!
//! Each host is checked on its own: SSH, the program, root, interfaces, memory, space. Then the hosts are
//! compared: QEMU, KVM, CPU models, shared images, the migration link. The checks start nodes, as a run does,
//! and end them again.

use super::observe::{Directory, Kvm, Observation};
use crate::{
    driver::qemu::machine::Accelerator,
    finding::Finding,
    image::GuestFiles,
    lab::{
        Description, Error, LabKind,
        hosts::{
            cause,
            host_path::HostPath,
            inventory::Inventory,
            ssh::{HostProgram, SshHost, SshHosts, Upload},
        },
        topology::{CONTROLLER_ADDRESS, GUESTS, MIGRATION, PREFIX, SHAPED_ADDRESSES},
    },
    matrix::Settings,
    node::{Node, protocol::Facts, round_trip::RoundTrip, server::host::IN_USE},
    setup::{MINIMUM_QEMU, QemuVersion},
};
use jiff::Timestamp;
use netem::Feature;
use std::{
    env::consts::ARCH,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::process::Child;
use units::{BitRate, Bytes, counted};

/// The memory for a guest of 1 GiB and its QEMU process, in bytes.
const MIN_FREE_MEMORY_BYTES: u64 = 1280 << 20;

/// The space for the files that a run uploads to a host, in bytes.
const MIN_FREE_SPACE_BYTES: u64 = 100 << 20;

/// The maximum number of differing CPU features that a finding names.
const MAX_NAMED_FEATURES: usize = 6;

/// The clock offset above which a finding warns, because the times in the hosts' logs do not match.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(1);

/// The time limit for compute2 to answer on the migration link.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A running node, with the observation of its host. The node ends with the ssh process.
struct RunningNode {
    node: Node,
    facts: Facts,
    seen: Option<Observation>,
    /// The directory of the guest's files on the host, if they could be stored there.
    images: Option<PathBuf>,
    /// Whether the node has taken over an interface of the host for the migration link, with a carrier.
    is_linked: bool,
    _process: Child,
}

impl RunningNode {
    /// Returns the directory of the guest's files as the host was observed.
    fn images_directory(&self) -> Option<&Directory> {
        self.seen.as_ref()?.directories.iter().find(|seen| Some(&seen.path) == self.images.as_ref())
    }
}

/// The inventory's entry for a node.
struct HostSpec<'a> {
    /// The name of the node.
    name: &'static str,
    /// The name of the host for ssh.
    host: &'a str,
    /// The host's interfaces, each with its name in the node and with the node's address on it.
    interfaces: Vec<(&'a str, &'static str, Option<Ipv4Addr>)>,
    runs_guests: bool,
}

/// Checks every host, then compares them.
///
/// # Errors
/// If this program or the guest's kernel cannot be read. A failed check is a finding, not an error.
pub async fn examine(
    SshHosts { inventory, access }: &SshHosts,
    guest: &GuestFiles,
) -> Result<Vec<Finding>, Error> {
    let program = Upload::read(Path::new("/proc/self/exe"))?;
    let kernel = Upload::read(&guest.kernel)?;
    let [near, far] = SHAPED_ADDRESSES;
    let compute = |name, host, guests, migration, address| HostSpec {
        name,
        host,
        interfaces: vec![(guests, GUESTS, None), (migration, MIGRATION, Some(address))],
        runs_guests: true,
    };
    let Inventory { controller, compute1, compute2, .. } = inventory;
    let hosts = [
        HostSpec {
            name: "controller",
            host: &controller.host,
            interfaces: vec![(&controller.guests, GUESTS, Some(CONTROLLER_ADDRESS))],
            runs_guests: false,
        },
        compute("compute1", &compute1.host, &compute1.guests, &compute1.migration, near),
        compute("compute2", &compute2.host, &compute2.guests, &compute2.migration, far),
    ];
    let looks = hosts.each_ref().map(|spec| {
        let (program, kernel) = (&program, &kernel);
        async move {
            let mut findings = Vec::new();
            let running =
                check_host(spec, &access.host(spec.host), inventory, program, kernel, &mut findings).await;
            (findings, running)
        }
    });
    let (findings, running): (Vec<_>, Vec<_>) = futures::future::join_all(looks).await.into_iter().unzip();
    let mut findings = findings.concat();
    if let Some(images) = &inventory.images {
        let [_, source, destination] = hosts.each_ref().map(|spec| access.host(spec.host));
        let on = running.get(1).and_then(|running| running.as_ref()?.images_directory());
        findings.extend(check_shared_images(&source, &destination, images, on).await);
    }
    if let [_, Some(source), Some(destination)] = &running[..] {
        findings.extend(compare_compute_nodes(source, destination).await);
    }
    Ok(findings)
}

/// Checks a host. Returns its node, if it could be started.
async fn check_host(
    spec: &HostSpec<'_>,
    host: &SshHost<'_>,
    inventory: &Inventory,
    program: &Upload,
    kernel: &Upload,
    findings: &mut Vec<Finding>,
) -> Option<RunningNode> {
    let program = upload_program(spec, host, program, findings).await?;
    let parent = |path: &str| Path::new(path).parent().map(Path::to_path_buf);
    let mut images = None;
    if spec.runs_guests {
        match host.upload(kernel, inventory.images.as_ref()).await {
            Ok(path) => {
                findings.push(Finding::ok(&check_name(spec, "images"), path.as_str()));
                images = parent(&path);
            }
            Err(error) => {
                let (detail, remedy) = error.with_remedy_apart();
                let remedy = remedy.unwrap_or_else(|| "set `images` to another directory".into());
                findings.push(Finding::failed(&check_name(spec, "images"), detail, remedy));
            }
        }
    }
    let mut running = check_node(spec, host, &program, findings).await?;
    let mut directories: Vec<_> = parent(program.path()).into_iter().chain(images.clone()).collect();
    directories.dedup();
    running.images = images;
    running.seen = observe_host(spec, host, &program, &directories, &running, findings).await;
    running.is_linked = check_interfaces(spec, &running, findings).await.contains(&MIGRATION);
    Some(running)
}

/// Checks that the host can be reached, uploads this program, and checks that it runs there. Returns the
/// program on the host.
async fn upload_program(
    spec: &HostSpec<'_>,
    host: &SshHost<'_>,
    program: &Upload,
    findings: &mut Vec<Finding>,
) -> Option<HostProgram> {
    let mut failed = |what: &str, error: Error, otherwise: String| {
        let (detail, remedy) = error.with_remedy_apart();
        findings.push(Finding::failed(&check_name(spec, what), detail, remedy.unwrap_or(otherwise)));
        None
    };
    match host.run_script("uname -m").await {
        Ok(arch) if arch == ARCH => {}
        Ok(arch) => {
            let detail = format!("this program is for {ARCH}, the host is {arch}");
            let remedy = format!("use a host that is {ARCH}, like this one");
            findings.push(Finding::failed(&check_name(spec, "program"), detail, remedy));
            return None;
        }
        Err(error) => {
            let otherwise = cause::reach_remedy("", &host.login_command());
            return failed("reach", error, otherwise);
        }
    }
    let program = match host.install(program).await {
        Ok(program) => program,
        Err(error) => return failed("program", error, cause::another_directory(false).into()),
    };
    match host.try_program(&program).await {
        Ok(()) => Some(program),
        Err(error) => failed("program", error, cause::another_directory(false).into()),
    }
}

/// Observes the host, and checks the free space in `directories`. `program` is the same as for
/// [`SshHost::observe`].
async fn observe_host(
    spec: &HostSpec<'_>,
    host: &SshHost<'_>,
    program: &HostProgram,
    directories: &[PathBuf],
    running: &RunningNode,
    findings: &mut Vec<Finding>,
) -> Option<Observation> {
    let mut words: Vec<String> = Vec::new();
    for directory in directories {
        words.extend(["--directory".into(), directory.to_string_lossy().into_owned()]);
    }
    if spec.runs_guests && running.facts.qemu.is_some() {
        words.push("--cpus".into());
    }
    let seen = match host.observe::<Observation>(program, &words).await {
        Ok(seen) => seen,
        Err(error) => {
            let remedy = format!("`testbed lab status` shows whether {} answers", spec.host);
            findings.push(Finding::warning(&check_name(spec, "host"), error.to_string(), remedy));
            return None;
        }
    };
    let mut enough = Vec::new();
    for directory in &seen.directories {
        let Directory { path, file_system, source, free_bytes } = directory;
        let detail =
            format!("{} free in {} ({file_system} of {source})", binary(*free_bytes), path.display());
        if *free_bytes < MIN_FREE_SPACE_BYTES {
            let remedy = "free space there";
            findings.push(Finding::warning(&check_name(spec, "space"), detail, remedy));
        } else {
            enough.push(detail);
        }
    }
    if !enough.is_empty() {
        findings.push(Finding::ok(&check_name(spec, "space"), enough.join("; ")));
    }
    Some(seen)
}

/// Checks whether both compute nodes share the directory of images: creates a file at the source and looks
/// for it at the destination. `on` describes the directory's file system at the source.
async fn check_shared_images(
    source: &SshHost<'_>,
    destination: &SshHost<'_>,
    images: &HostPath,
    on: Option<&Directory>,
) -> Option<Finding> {
    let name = format!(".testbed-{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
    let mark = format!("{}/{name}", images.script_word());
    // If the directory is not writable, another finding already says so.
    source.run_script(&format!("set -C; : > {mark}")).await.ok()?;
    let seen = destination.run_script(&format!("if test -e {mark}; then echo yes; fi")).await;
    let _ = source.run_script(&format!("rm -f {mark}")).await;
    let on = on.map_or(String::new(), |on| format!(", {} of {}", on.file_system, on.source));
    let place = images;
    Some(if seen.ok()? == "yes" {
        Finding::ok("shared images", format!("both compute nodes share {place}{on}"))
    } else {
        Finding::warning(
            "shared images",
            format!("each compute node has its own {place}{on}"),
            "export it by NFS from the controller and mount it on both; without disks, copies work too",
        )
    })
}

/// Formats a size of memory or of a disk.
fn binary(bytes: u64) -> impl std::fmt::Display {
    Bytes::new(bytes).rounded_binary()
}

/// Returns the name of a check: the node, and what is checked.
fn check_name(spec: &HostSpec<'_>, what: &str) -> String {
    format!("{} {what}", spec.name)
}

/// Starts a node on the host, and checks QEMU, memory and clock. Returns the node, if it could be started.
/// `program` is the same as for [`SshHost::observe`].
async fn check_node(
    spec: &HostSpec<'_>,
    host: &SshHost<'_>,
    program: &HostProgram,
    findings: &mut Vec<Finding>,
) -> Option<RunningNode> {
    let started = async {
        let (node, process) = host.start_node(spec.name, program).await?;
        let (asked, asked_at) = (Instant::now(), Timestamp::now());
        let facts = node.facts().await?;
        let asked = (asked.elapsed(), asked_at);
        let away = RoundTrip::measure(&node).await?;
        Ok::<_, Error>((
            RunningNode { node, facts, seen: None, images: None, is_linked: false, _process: process },
            asked,
            away,
        ))
    };
    let (running, (took, asked_at), away) = match started.await {
        Ok(started) => started,
        Err(error) => {
            let (detail, remedy) = error.with_remedy_apart();
            let remedy = remedy.unwrap_or_else(|| "the node's program has to run there as root".into());
            findings.push(Finding::missing(&check_name(spec, "root"), detail, remedy));
            return None;
        }
    };
    let facts = &running.facts;
    if spec.runs_guests {
        findings.extend(check_qemu(&check_name(spec, "QEMU"), facts));
    }
    let what = check_name(spec, "host");
    findings.push(Finding::ok(
        &what,
        format!(
            "{}, {}, Linux {}, round trip {:.1} ms",
            facts.cpu_model,
            counted(facts.cpus, "CPU"),
            facts.kernel,
            away.median_ms
        ),
    ));
    if spec.runs_guests && facts.available_memory_bytes < MIN_FREE_MEMORY_BYTES {
        let (free, needed) = (binary(facts.available_memory_bytes), binary(MIN_FREE_MEMORY_BYTES));
        let (whose, remedy) = if facts.limited_by_cgroup {
            let raise = "raise the memory limit of the cgroup of SSH sessions there, or choose smaller \
                         guests in the matrix";
            (" in its cgroup", raise)
        } else {
            ("", "end other programs there, or choose smaller guests in the matrix")
        };
        let detail = format!("{free} free{whose}; a guest of 1 GiB needs {needed}");
        findings.push(Finding::warning(&check_name(spec, "memory"), detail, remedy));
    }
    // The node read its clock at some time between the request and the arrival of the answer, `took` later.
    let apart = facts.clock.duration_since(asked_at).unsigned_abs();
    if apart > MAX_CLOCK_OFFSET + took {
        let detail = format!("its clock differs from this host's by {:.0} s", apart.as_secs_f64());
        findings.push(Finding::warning(
            &check_name(spec, "clock"),
            detail,
            "synchronize its clock with NTP; no figure depends on it",
        ));
    }
    Some(running)
}

/// Takes over the host's interfaces, as a run does. Interfaces that the observation of the host shows to be
/// unusable are not tried. Returns, by their names in the node, the interfaces that can carry frames.
async fn check_interfaces(
    spec: &HostSpec<'_>,
    running: &RunningNode,
    findings: &mut Vec<Finding>,
) -> Vec<&'static str> {
    let RunningNode { node, seen, .. } = running;
    let mut usable = Vec::new();
    for (interface, name, address) in &spec.interfaces {
        let what = check_name(spec, name);
        if let Some(unusable) = seen.as_ref().and_then(|seen| seen.unusable.get(*interface)) {
            let place = format!("on {}", spec.host);
            let remedy = format!("{}, {place}", unusable.remedy);
            findings.push(Finding::failed(&what, unusable.reason.as_str(), remedy));
            continue;
        }
        let attached = async {
            node.attach(interface, name).await?;
            node.set_up(name, address.map(|address| (address, PREFIX))).await
        };
        if let Err(error) = attached.await {
            let detail = error.to_string();
            let remedy = attach_remedy(&detail, name);
            findings.push(Finding::missing(&what, detail, remedy));
        } else if has_no_carrier(interface, seen.as_ref()) {
            let detail =
                format!("{interface} has no carrier: nothing is connected to it, or its peer is down");
            let remedy = format!("check the cable and the port of the switch, or the peer of {interface}");
            findings.push(Finding::failed(&what, detail, remedy));
        } else {
            usable.push(*name);
        }
    }
    usable
}

/// Returns what to do if an interface could not be taken over as the node's interface `name`, because of
/// `error`.
fn attach_remedy(error: &str, name: &str) -> String {
    if error.contains(IN_USE) {
        return "wait for the other run to end (`testbed lab status` with the same --lab shows it), or stop \
                what else uses the interface"
            .into();
    }
    if error.contains("this kernel has no") {
        let (module, option) = (Feature::Macvlan.module(), Feature::Macvlan.option());
        return format!("load the module there (`modprobe {module}`), or use a kernel with {option}");
    }
    format!("name another interface for {name} in the inventory; `ip -brief link` there lists them")
}

/// Returns whether an interface of a host is known to have no carrier.
fn has_no_carrier(name: &str, seen: Option<&Observation>) -> bool {
    let interface = seen.and_then(|seen| seen.interfaces.iter().find(|interface| interface.name == name));
    interface.is_some_and(|interface| !interface.up)
}

/// Checks the QEMU of a host that runs guests. Returns what is wrong with it.
fn check_qemu(what: &str, facts: &Facts) -> Option<Finding> {
    const PACKAGE: &str = "Debian's package is qemu-system-x86";
    match (&facts.qemu, &facts.broken_qemu) {
        (None, None) => Some(Finding::missing(what, "not installed", format!("install it there; {PACKAGE}"))),
        (None, Some(why)) => {
            let remedy = format!("repair it there, or reinstall it; {PACKAGE}");
            Some(Finding::failed(what, why.as_str(), remedy))
        }
        (Some(version), _) if QemuVersion::leading(version).is_some_and(|known| known < MINIMUM_QEMU) => {
            let detail = format!("version {version}; {MINIMUM_QEMU} or newer is required");
            Some(Finding::failed(what, detail, format!("install a newer one there; {PACKAGE}")))
        }
        (Some(_), _) => None,
    }
}

/// Compares the QEMUs of the compute nodes: guests can migrate if both have a machine type in common.
fn compare_qemus(source: &RunningNode, destination: &RunningNode) -> Finding {
    const NAME: &str = "QEMU";
    let version = |facts: &Facts| facts.qemu.clone().unwrap_or_else(|| "none".into());
    let (here, there) = (version(&source.facts), version(&destination.facts));
    let detail = if here == there {
        format!("{here} on both")
    } else {
        format!("{here} at the source, {there} at the destination")
    };
    if [&source.facts, &destination.facts].iter().any(|facts| facts.qemu.is_none()) {
        return Finding::failed(NAME, detail, "see the findings about QEMU above");
    }
    let machines = |node: &RunningNode| node.seen.as_ref()?.cpus.as_ref()?.as_ref().ok()?.machines.clone();
    let (Some(a), Some(b)) = (machines(source), machines(destination)) else {
        if here == there {
            return Finding::ok(NAME, detail);
        }
        return Finding::warning(NAME, detail, "install the same version on both");
    };
    match a.common(&b) {
        None => {
            let detail = format!("{detail}; no machine type in common: {} and {}", a.range(), b.range());
            Finding::failed(NAME, detail, "install the same version on both")
        }
        Some(common) if QemuVersion::is_downgrade(&here, &there) => Finding::warning(
            NAME,
            format!(
                "{detail}; guests get the machine type {common}, which both have, but QEMU does not promise \
                 that a guest can migrate to an older version"
            ),
            "install the same version on both, or exchange compute1 and compute2 in the inventory",
        ),
        Some(common) => Finding::ok(NAME, format!("{detail}; guests get the machine type {common}")),
    }
}

/// Compares the two compute nodes, and checks the migration link between them.
async fn compare_compute_nodes(source: &RunningNode, destination: &RunningNode) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(compare_qemus(source, destination));
    if let (Some(source), Some(destination)) = (&source.seen, &destination.seen) {
        findings.push(compare_kvm(&source.kvm, &destination.kvm));
        findings.extend(compare_cpus(source, destination));
    }
    findings.push(check_migration_link(source, destination).await);
    let description = Description {
        kind: LabKind::Ssh,
        source: source.facts.clone(),
        destination: destination.facts.clone(),
        round_trips: None,
        images: None,
    };
    let shaped = netem::Profile { rate: Some(BitRate::new(1_000_000_000)), ..netem::Profile::default() };
    if let Some(reason) = description.lacks(&Settings { link: shaped.into(), ..Settings::default() }) {
        findings.push(Finding::missing("shaping", reason, "load the module, or use a kernel that has it"));
    }
    findings
}

/// Checks whether the destination answers the source on the migration link. Does not wait for an answer that
/// cannot come.
async fn check_migration_link(source: &RunningNode, destination: &RunningNode) -> Finding {
    const NAME: &str = "migration link";
    for (node, name) in [(source, "compute1"), (destination, "compute2")] {
        if !node.is_linked {
            let detail = format!("not tried, because {name} has no usable interface to it");
            return Finding::failed(NAME, detail, format!("see the finding `{name} {MIGRATION}` above"));
        }
    }
    match source.node.reach(SHAPED_ADDRESSES[1], Duration::from_millis(100), ANSWER_LIMIT).await {
        Ok(()) => Finding::ok(NAME, "compute2 answers compute1"),
        Err(error) => {
            let remedy =
                "connect both `migration` interfaces to the same network (the same VLAN of a switch)";
            Finding::failed(NAME, error.to_string(), remedy)
        }
    }
}

/// Checks whether both compute nodes have KVM. A run uses the accelerator of the source.
fn compare_kvm(source: &Kvm, destination: &Kvm) -> Finding {
    const NAME: &str = "KVM";
    let state = |kvm: &Kvm| match kvm {
        Kvm::Open => "can be opened".to_string(),
        Kvm::Closed(reason) => format!("cannot be opened ({reason})"),
        Kvm::Absent => "does not exist".to_string(),
    };
    let detail =
        format!("/dev/kvm {} at the source, {} at the destination", state(source), state(destination));
    let remedy = |kvm, end| format!("{} at the {end}", kvm_remedy(kvm));
    match (source, destination) {
        (Kvm::Open, Kvm::Open) => {
            Finding::ok(NAME, "/dev/kvm can be opened on both; a run will try whether guests boot under KVM")
        }
        (Kvm::Open, _) => {
            let remedy = remedy(destination, "destination");
            Finding::missing(NAME, detail, format!("{remedy}; or set `guest.accel: tcg` in the matrix"))
        }
        (_, Kvm::Open) => {
            Finding::warning(NAME, format!("{detail}: guests run under TCG"), remedy(source, "source"))
        }
        _ => {
            let (near, far) = (kvm_remedy(source), kvm_remedy(destination));
            let fix = if near == far { format!("{near} at both ends") } else { remedy(source, "source") };
            Finding::warning(NAME, format!("{detail}: guests run under TCG"), fix)
        }
    }
}

/// Returns what to do if `/dev/kvm` cannot be used. Root tries to open it.
fn kvm_remedy(kvm: &Kvm) -> &'static str {
    let has = |reason: &str| matches!(kvm, Kvm::Closed(why) if why.contains(reason));
    if has("Permission denied") || has("Operation not permitted") {
        "let root open /dev/kvm (a container has to be given the device; SELinux and AppArmor have to \
         allow it)"
    } else if has("Device or resource busy") {
        "end the other hypervisor that uses the CPU's virtualization"
    } else {
        "enable virtualization in the firmware (of a VM: nested virtualization on its host) and load \
         kvm_intel or kvm_amd"
    }
}

/// Checks whether both compute nodes can run the same CPU model, according to QEMU: unlike `/proc/cpuinfo`,
/// QEMU knows which CPU features KVM supports.
fn compare_cpus(source: &Observation, destination: &Observation) -> Option<Finding> {
    const NAME: &str = "CPU model";
    let (a, b) = match (source.cpus.as_ref()?, destination.cpus.as_ref()?) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(error), _) | (_, Err(error)) => {
            let remedy = "start QEMU there by hand; it may print a clearer message";
            return Some(Finding::warning(NAME, error.as_str(), remedy));
        }
    };
    let Some(common) = a.common_model(b) else {
        let detail = format!(
            "no model that {} and {} can both run",
            source.facts.cpu_model, destination.facts.cpu_model
        );
        return Some(Finding::missing(
            NAME,
            detail,
            "use two hosts with more similar CPUs, or install the same QEMU on both",
        ));
    };
    if [a, b].iter().any(|cpus| cpus.accelerator == Accelerator::Tcg) {
        return Some(Finding::ok(
            NAME,
            format!("QEMU emulates the CPU (TCG); both can run {common}, for example"),
        ));
    }
    let differences = a.host_differences(b);
    if differences.is_empty() {
        return Some(Finding::ok(NAME, "`host` has the same features on both, under KVM"));
    }
    let named: Vec<&str> = differences.iter().take(MAX_NAMED_FEATURES).copied().collect();
    let more = differences.len().saturating_sub(MAX_NAMED_FEATURES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let detail = format!("under KVM, `host` has different features: {}{more}", named.join(", "));
    Some(Finding::warning(
        NAME,
        detail,
        format!("set `guest.cpu: {common}` in the matrix, a model that both can run"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{driver::qemu::cpus::Cpus, finding::State, node::protocol::Privilege};

    #[test]
    fn a_run_needs_kvm_at_the_destination_if_the_source_has_it() {
        let state = |source, destination| compare_kvm(&source, &destination).state;
        let closed = || Kvm::Closed("Permission denied (os error 13)".into());
        assert_eq!(state(Kvm::Open, Kvm::Open), State::Ok);
        assert_eq!(state(Kvm::Open, Kvm::Absent), State::Missing);
        assert_eq!(state(closed(), Kvm::Open), State::Warning);
        assert_eq!(state(Kvm::Absent, Kvm::Absent), State::Warning);
        assert!(compare_kvm(&Kvm::Open, &closed()).detail.contains("at the destination"));
    }

    #[test]
    fn the_remedy_for_kvm_follows_what_opening_it_says() {
        let closed = |why: &str| Kvm::Closed(why.into());
        let remedy = |source, destination| compare_kvm(&source, &destination).remedy.unwrap();
        let denied = remedy(Kvm::Open, closed("Permission denied (os error 13)"));
        assert!(denied.starts_with("let root open /dev/kvm") && denied.contains("destination"), "{denied}");
        assert!(remedy(closed("Device or resource busy (os error 16)"), Kvm::Open).contains("hypervisor"));
        let absent = remedy(Kvm::Absent, Kvm::Absent);
        assert!(absent.contains("firmware") && absent.ends_with("at both ends"), "{absent}");
    }

    #[test]
    fn a_qemu_is_missing_broken_or_too_old() {
        let facts = |qemu: Option<&str>, broken: Option<&str>| Facts {
            qemu: qemu.map(Into::into),
            broken_qemu: broken.map(Into::into),
            ..seen(Accelerator::Tcg, &[], &[]).facts
        };
        let check = |facts: Facts| check_qemu("compute1 QEMU", &facts);
        assert_eq!(check(facts(Some("10.0.2"), None)), None);
        let missing = check(facts(None, None)).unwrap();
        assert_eq!((missing.state, missing.detail.as_str()), (State::Missing, "not installed"));
        let broken = check(facts(None, Some("libfdt.so.1: cannot open"))).unwrap();
        assert_eq!(broken.state, State::Failed);
        assert!(broken.detail.contains("libfdt") && broken.remedy.unwrap().starts_with("repair"));
        let old = check(facts(Some("6.2.0"), None)).unwrap();
        assert!(old.detail.contains("6.2.0; 7.2 or newer"), "{old:?}");
    }

    #[test]
    fn the_remedy_for_an_interface_follows_the_cause() {
        let remedy = |error: &str| attach_remedy(error, "guests");
        assert!(remedy("x; another run may be using eth1").contains("lab status"));
        assert!(remedy("no interface `eth7` in this network namespace").contains("`ip -brief link`"));
        let lacking = netem::Error::MissingFeature { action: "x".into(), feature: Feature::Macvlan };
        assert!(remedy(&lacking.to_string()).contains("modprobe macvlan"));
    }

    fn seen(accelerator: Accelerator, models: &[&str], host: &[(&str, bool)]) -> Observation {
        let cpus = Cpus {
            accelerator,
            machines: None,
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
            lockable_bytes: None,
            limited_by_cgroup: false,
            clock: Timestamp::UNIX_EPOCH,
            qemu: None,
            broken_qemu: None,
        };
        let (interfaces, directories, nodes) = (Vec::new(), Vec::new(), Vec::new());
        let unusable = std::collections::BTreeMap::new();
        Observation { facts, kvm: Kvm::Open, interfaces, unusable, directories, cpus: Some(Ok(cpus)), nodes }
    }

    #[test]
    fn a_cpu_model_for_two_different_hosts_is_suggested() {
        let old =
            seen(Accelerator::Kvm, &["qemu64", "Haswell", "host"], &[("avx", true), ("avx512f", false)]);
        let new = seen(
            Accelerator::Kvm,
            &["qemu64", "Haswell", "Skylake-Server", "host"],
            &[("avx", true), ("avx512f", true)],
        );
        assert_eq!(compare_cpus(&old, &old).unwrap().state, State::Ok);
        let unlike = compare_cpus(&old, &new).unwrap();
        assert_eq!(unlike.state, State::Warning);
        assert!(unlike.detail.ends_with("avx512f"), "{unlike:?}");
        assert!(unlike.remedy.unwrap().contains("guest.cpu: Haswell"));
        let none = compare_cpus(&old, &seen(Accelerator::Kvm, &["host"], &[])).unwrap();
        assert_eq!(none.state, State::Missing, "`host` is a different CPU on each host");
        let silent = Observation { cpus: Some(Err("it ended".into())), ..old.clone() };
        assert_eq!(compare_cpus(&old, &silent).unwrap().detail, "it ended");
        let translated = seen(Accelerator::Tcg, &["qemu64", "max"], &[]);
        assert_eq!(compare_cpus(&translated, &translated).unwrap().state, State::Ok);
    }
}
