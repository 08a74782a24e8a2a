//! The names that other programs and papers use for the keys of a matrix file.
//!
//! A measure of similarity would suggest `max_bandwidth` for `max_downtime`; this list suggests
//! `downtime_limit`. The names come from QEMU, libvirt, `OpenStack`, Kubernetes, tc, stress-ng, iperf and
//! papers on live migration. They are not read as keys: two files about the same thing should look the same.

use super::typed::plain;

/// Each key, with other names for it. A key of a section, or of a mapping in a list, is preceded by the name
/// of that section or list. A name may stand for several keys.
pub(super) const SYNONYMS: &[(&str, &[&str])] = &[
    // Sections.
    ("guest", &["vm", "vms", "domain", "instance", "server", "virtual_machine", "machine", "qemu", "vmi"]),
    ("link", &["network", "net", "netem", "tc", "wan", "path", "connection", "migration_link", "nic"]),
    ("storage", &["disk", "disks", "drive", "volume", "block", "blockdev", "image"]),
    ("probe", &["ping", "client", "prober", "monitor", "downtime_probe"]),
    (
        "stress",
        &["workload", "load", "stressor", "stress_ng", "dirty", "dirtying", "memory_load", "benchmark"],
    ),
    ("migrate", &["migration", "live_migration", "migrations", "migrate_parameters", "migration_parameters"]),
    ("timeline", &["events", "schedule", "steps", "changes", "scenario", "script"]),
    // The top level.
    ("name", &["title", "id", "matrix", "experiment"]),
    ("description", &["comment", "about", "notes", "summary", "purpose"]),
    (
        "axes",
        &["axis", "sweep", "vary", "variables", "parameters", "params", "dimensions", "factors", "grid"],
    ),
    ("include", &["cells", "cases", "extra", "also", "points"]),
    ("exclude", &["skip", "filter", "except", "omit", "without"]),
    (
        "repeat",
        &[
            "repeats",
            "repetitions",
            "runs",
            "iterations",
            "count",
            "samples",
            "attempts",
            "times",
            "trials",
            "reps",
        ],
    ),
    ("order", &["shuffle", "random_order", "randomize", "ordering", "sequence"]),
    ("seed", &["random_seed", "rng_seed"]),
    (
        "expect",
        &["assert", "asserts", "assertions", "checks", "expected", "expectations", "thresholds", "slo"],
    ),
    ("reference", &["published", "baseline", "literature", "paper", "references"]),
    // The guest.
    (
        "guest.memory",
        &[
            "ram",
            "mem",
            "memory_size",
            "ram_size",
            "mem_size",
            "maxmem",
            "max_memory",
            "current_memory",
            "size",
            "m",
        ],
    ),
    (
        "guest.vcpus",
        &[
            "cpus",
            "vcpu",
            "smp",
            "cores",
            "cpu_count",
            "ncpus",
            "max_cpus",
            "cpu_cores",
            "num_cpus",
            "nproc",
            "sockets",
        ],
    ),
    ("guest.cpu", &["cpu_model", "cpu_type", "cpu_mode", "model", "processor"]),
    ("guest.accel", &["kvm", "accelerator", "acceleration", "virt_type", "hypervisor", "enable_kvm", "tcg"]),
    (
        "guest.ballast",
        &["fill", "filler", "resident", "used_memory", "static_memory", "idle_memory", "padding", "preload"],
    ),
    ("guest.ballast_content", &["fill_content", "fill_pattern", "ballast_pattern", "ballast_data"]),
    // The link.
    (
        "link.rate",
        &[
            "bandwidth",
            "bw",
            "speed",
            "throughput",
            "bitrate",
            "link_speed",
            "link_rate",
            "capacity",
            "bandwidth_limit",
            "rate_limit",
            "max_rate",
        ],
    ),
    ("link.shaper", &["qdisc", "discipline", "shaping", "limiter"]),
    ("link.burst", &["bucket", "bucket_size", "burst_size", "maxburst", "cburst", "token_bucket"]),
    (
        "link.queue",
        &[
            "buffer",
            "buffer_size",
            "queue_size",
            "queue_length",
            "queue_limit",
            "qlen",
            "txqueuelen",
            "backlog",
        ],
    ),
    (
        "link.delay",
        &["latency", "lag", "one_way_delay", "owd", "propagation_delay", "rtt", "round_trip_time"],
    ),
    ("link.jitter", &["delay_variation", "delay_jitter", "variation", "pdv", "latency_jitter"]),
    ("link.jitter_correlation", &["delay_correlation", "correlation"]),
    ("link.distribution", &["delay_distribution", "jitter_distribution", "dist"]),
    (
        "link.loss",
        &[
            "packet_loss",
            "drop",
            "drops",
            "drop_rate",
            "packet_loss_rate",
            "loss_rate",
            "plr",
            "loss_ratio",
            "loss_random",
        ],
    ),
    (
        "link.loss_bursts",
        &["gemodel", "gilbert", "gilbert_elliott", "loss_gemodel", "burst_loss", "bursty_loss"],
    ),
    ("link.duplicate", &["duplication", "dup", "duplicates"]),
    ("link.corrupt", &["corruption", "bit_errors", "ber", "bit_error_rate"]),
    ("link.reorder", &["reordering", "out_of_order"]),
    ("link.reorder_gap", &["gap"]),
    ("link.limit", &["packet_limit", "max_packets", "queue_packets"]),
    ("link.slots", &["slot", "time_slots"]),
    (
        "link.trace",
        &[
            "trace_file",
            "rate_trace",
            "bandwidth_trace",
            "mahimahi",
            "mahimahi_trace",
            "mm_link",
            "uplink",
            "downlink",
            "replay",
            "play",
            "time_series",
        ],
    ),
    ("link.repeat_trace", &["loop_trace", "cycle_trace", "trace_repeat"]),
    ("link.tcp_tuning", &["tcp_buffers", "tcp_window", "window_size", "socket_buffers", "tune_tcp"]),
    ("loss_bursts.enter", &["p", "p13", "good_to_bad"]),
    ("loss_bursts.leave", &["r", "p31", "bad_to_good"]),
    ("loss_bursts.loss_bad", &["h", "1_h", "bad_loss", "bad"]),
    ("loss_bursts.loss_good", &["k", "1_k", "good_loss", "good"]),
    ("slots.min_delay", &["min", "minimum"]),
    ("slots.max_delay", &["max", "maximum"]),
    // The probe.
    ("probe.interval", &["ping_interval", "probe_interval", "period", "every", "frequency", "resolution"]),
    // The workload.
    (
        "stress.rate",
        &[
            "dirty_rate",
            "write_rate",
            "dirtying_rate",
            "page_dirty_rate",
            "dirty_page_rate",
            "stress_rate",
            "write_speed",
            "writes_per_second",
            "memory_bandwidth",
        ],
    ),
    (
        "stress.working_set",
        &[
            "wss",
            "working_set_size",
            "vm_bytes",
            "dirty_memory",
            "dirty_size",
            "hot_set",
            "writable_working_set",
            "wws",
            "footprint",
            "stressed_memory",
            "region",
            "memory",
            "size",
        ],
    ),
    (
        "stress.content",
        &["data", "pattern", "fill_pattern", "page_content", "entropy", "compressibility", "payload"],
    ),
    ("stress.write", &["write_size", "granularity", "store"]),
    ("stress.order", &["access_pattern", "access", "locality", "access_order", "vm_method", "distribution"]),
    (
        "stress.threads",
        &["workers", "vm_workers", "num_threads", "nthreads", "thread_count", "jobs", "writers"],
    ),
    ("stress.page_size", &["hugepages", "hugepage", "hugepage_size", "hugepagesz", "thp", "hugetlb"]),
    ("stress.step", &["tick", "granule", "time_step", "wake_up"]),
    ("stress.catch_up", &["make_up", "compensate"]),
    ("stress.seed", &["random_seed", "rng_seed"]),
    ("stress.repeat_phases", &["loop_phases", "cycle_phases", "phases_repeat"]),
    ("stress.phases", &["stages", "ramp", "periods"]),
    (
        "stress.wave",
        &[
            "oscillating",
            "oscillation",
            "oscillate",
            "sine",
            "sinusoidal",
            "square_wave",
            "triangle_wave",
            "sine_wave",
            "waveform",
            "periodic",
            "fluctuation",
            "duty_cycle",
        ],
    ),
    ("wave.shape", &["form", "type", "kind", "waveform", "function", "pattern"]),
    ("wave.period", &["cycle", "duration", "interval", "wavelength", "length", "time"]),
    ("wave.low", &["min", "minimum", "lowest", "trough", "floor", "from", "base", "off"]),
    ("wave.high", &["max", "maximum", "highest", "peak", "ceiling", "to", "top", "on"]),
    ("stress.trace", &["trace_file", "rate_trace", "load_trace", "replay", "time_series", "mahimahi"]),
    ("stress.repeat_trace", &["loop_trace", "cycle_trace", "trace_repeat"]),
    ("phases.rate", &["dirty_rate", "speed", "bandwidth"]),
    ("phases.duration", &["time", "length", "for", "period", "seconds"]),
    // The migration.
    ("migrate.mode", &["type", "strategy", "method", "algorithm", "policy", "precopy", "migration_mode"]),
    (
        "migrate.downtime_limit",
        &[
            "max_downtime",
            "maximum_downtime",
            "downtime",
            "migrate_set_downtime",
            "live_migration_downtime",
            "allowed_downtime",
            "target_downtime",
            "downtime_target",
            "downtime_ms",
            "setmaxdowntime",
            "max_pause",
        ],
    ),
    (
        "migrate.timeout",
        &[
            "deadline",
            "time_limit",
            "max_time",
            "max_duration",
            "completion_timeout",
            "max_total_time",
            "give_up_after",
            "live_migration_completion_timeout",
            "completion_timeout_per_gib",
            "duration",
            "abort_after",
        ],
    ),
    (
        "migrate.max_passes",
        &[
            "max_iterations",
            "max_iteration",
            "max_rounds",
            "iterations",
            "passes",
            "rounds",
            "max_iters",
            "iteration_limit",
        ],
    ),
    (
        "migrate.stall_detection",
        &["stall", "stalls", "early_abort", "progress_timeout", "detect_stalls", "convergence_detection"],
    ),
    (
        "migrate.max_bandwidth",
        &[
            "bandwidth",
            "bw",
            "speed",
            "max_speed",
            "migrate_set_speed",
            "bandwidth_limit",
            "live_migration_bandwidth",
            "bandwidth_per_migration",
            "migration_speed",
            "throughput",
            "rate",
            "rate_limit",
            "cap",
            "max_rate",
        ],
    ),
    ("migrate.tls", &["encryption", "encrypted", "encrypt", "ssl", "tls_creds", "x509"]),
    ("migrate.postcopy_preempt", &["preempt", "preemption"]),
    ("migrate.max_postcopy_bandwidth", &["postcopy_bandwidth", "bandwidth_postcopy"]),
    (
        "migrate.pause_after",
        &["timeout_suspend", "suspend", "suspend_after", "force_suspend", "pause", "paused", "pause_timeout"],
    ),
    ("migrate.pause_after_passes", &["pause_iters", "pause_iterations", "suspend_after_passes"]),
    ("migrate.compress", &["mt_compression", "compress_mt", "multithread_compression"]),
    ("migrate.postcopy_after_passes", &["postcopy_after_precopy", "postcopy_iterations"]),
    ("migrate.save_live", &["live_save", "live", "dump_live", "save_running", "snapshot_live"]),
    ("migrate.mapped_ram", &["fixed_ram", "x_fixed_ram", "mapped", "sparse", "save_image_format"]),
    ("migrate.direct_io", &["o_direct", "bypass_cache", "x_direct_io", "use_direct_io"]),
    ("migrate.auto_converge", &["converge", "auto_convergence", "cpu_throttling", "throttle", "throttling"]),
    ("migrate.cpu_throttle_initial", &["throttle_initial", "initial_throttle", "auto_converge_initial"]),
    ("migrate.cpu_throttle_increment", &["throttle_increment", "throttle_step", "auto_converge_increment"]),
    ("migrate.max_cpu_throttle", &["cpu_throttle_max", "max_throttle", "cpu_throttle_maximum"]),
    ("migrate.throttle_trigger_threshold", &["throttle_trigger", "throttle_threshold"]),
    ("migrate.cpu_throttle_tailslow", &["tailslow", "throttle_tailslow"]),
    ("migrate.xbzrle_cache_size", &["xbzrle_cache", "compcache", "migrate_set_cache_size"]),
    ("migrate.xbzrle", &["delta_compression"]),
    ("migrate.multifd", &["parallel"]),
    ("migrate.multifd_channels", &["channels", "parallel_connections", "connections", "streams"]),
    ("migrate.multifd_compression", &["compression", "compression_method", "codec", "compressor"]),
    ("migrate.multifd_zlib_level", &["zlib_level", "compression_zlib_level"]),
    ("migrate.multifd_zstd_level", &["zstd_level", "compression_zstd_level"]),
    ("migrate.multifd_qatzip_level", &["qatzip_level"]),
    ("migrate.zero_page_detection", &["zero_page", "zero_pages", "zero_detection"]),
    ("migrate.zero_copy_send", &["zero_copy", "msg_zerocopy"]),
    ("migrate.avail_switchover_bandwidth", &["switchover_bandwidth", "available_switchover_bandwidth"]),
    ("migrate.vcpu_dirty_limit", &["dirty_limit_rate"]),
    // Entries of lists.
    ("timeline.at", &["time", "after", "when", "t", "start", "offset", "from"]),
    ("timeline.link", &["network", "net", "netem", "tc"]),
    ("timeline.stress", &["workload", "load", "stressor"]),
    ("expect.where", &["when", "if", "condition", "cells", "select", "only", "match"]),
    (
        "expect.relative_to",
        &["compared_with", "compared_to", "compare_with", "compare_to", "baseline", "versus", "vs", "than"],
    ),
    ("expect.outcome", &["result", "status", "verdict", "state"]),
    ("expect.downtime", &["max_downtime", "pause", "outage", "blackout"]),
    (
        "expect.total_time",
        &["migration_time", "total_migration_time", "duration", "time", "total", "elapsed"],
    ),
    (
        "expect.transferred",
        &["data", "bytes", "traffic", "transfer", "transferred_bytes", "data_transferred", "amount", "ram"],
    ),
    ("reference.source", &["paper", "title", "url", "citation", "name"]),
    ("reference.rows", &["figures", "data", "values", "results", "entries", "cells"]),
    ("rows.where", &["when", "if", "condition", "cell", "match"]),
    ("rows.outcome", &["result", "status", "verdict"]),
    ("rows.downtime", &["pause", "outage"]),
    ("rows.total_time", &["migration_time", "total_migration_time", "duration", "time"]),
    ("rows.transferred", &["data", "bytes", "traffic", "transferred_bytes"]),
];

/// Words that other programs use for ours.
pub(super) const WORDS: &[(&str, &[&str])] = &[
    ("precopy", &["live", "pre"]),
    ("postcopy", &["postcopy_ram", "hybrid", "post"]),
    (
        "file",
        &[
            "save",
            "virsh_save",
            "managedsave",
            "managed_save",
            "save_restore",
            "suspend_to_disk",
            "savevm",
            "snapshot",
            "dump",
            "offline",
            "disk",
            "to_file",
            "mapped_ram",
        ],
    ),
    (
        "cpr-transfer",
        &["cpr", "handover", "hand_over", "live_update", "live_upgrade", "local", "same_host", "upgrade"],
    ),
    (
        "converged",
        &["success", "successful", "succeeded", "completed", "complete", "ok", "pass", "passed", "done"],
    ),
    (
        "not-converged",
        &[
            "timeout",
            "timed_out",
            "cancelled",
            "canceled",
            "aborted",
            "given_up",
            "diverged",
            "stalled",
            "no",
        ],
    ),
    ("failed", &["error", "failure", "fail", "crashed"]),
    ("guest-lost", &["lost", "dead", "panic", "crash"]),
    ("kvm", &["hardware", "hvm", "hw"]),
    ("tcg", &["emulation", "software", "qemu", "soft"]),
    ("auto", &["default", "any", "best"]),
    ("tbf", &["token_bucket", "sch_tbf"]),
    ("htb", &["sch_htb"]),
    ("netem", &["sch_netem"]),
    ("normal", &["gaussian", "gauss"]),
    ("pareto_normal", &["pareto_normal_distribution", "wan"]),
    ("page", &["4096", "whole", "full"]),
    ("word", &["8", "byte", "long", "u64"]),
    ("4KiB", &["4k", "4kb", "4096", "small", "base", "default", "none"]),
    ("2MiB", &["2m", "2mb", "2048k", "2048kb", "huge", "thp"]),
    ("1GiB", &["1g", "1gb", "gigantic"]),
    ("burst", &["always", "make_up"]),
    ("square", &["rectangle", "rectangular", "pulse", "pulsed", "on_off", "square_wave"]),
    ("triangle", &["triangular", "zigzag", "linear", "ramp", "triangle_wave"]),
    ("sine", &["sin", "sinus", "sinusoidal", "cosine", "smooth", "sine_wave"]),
    ("shuffled", &["random", "randomized", "shuffle"]),
    ("as-written", &["file", "sequential", "in_order", "written"]),
];

/// Names and words of migrations that this program does not make, or makes by another setting.
const NOT_MADE: &[&str] = &["rdma", "rdma_pin_all", "colo", "background_snapshot", "block_migration"];

/// Returns what to say about a name or a word for a migration that this program does not support.
pub(super) fn not_made(name: &str) -> Option<&'static str> {
    let name = plain(name);
    NOT_MADE.iter().any(|other| plain(other) == name).then_some(
        "COLO and background snapshots are not supported; for RDMA see `migrate.transport`, for a copied \
         disk `storage: block`",
    )
}

/// Suffixes that give the unit of a value; here, the value itself contains its unit.
const UNIT_SUFFIXES: &[&str] = &[
    "_bytes",
    "_kb",
    "_mb",
    "_gb",
    "_kib",
    "_mib",
    "_gib",
    "_ns",
    "_us",
    "_ms",
    "_s",
    "_sec",
    "_secs",
    "_seconds",
    "_minutes",
    "_min",
    "_bps",
    "_kbps",
    "_mbps",
    "_gbps",
    "_mbit",
    "_gbit",
    "_percent",
    "_percentage",
    "_pct",
];

/// Prefixes that only say that the value is a number.
const COUNT_PREFIXES: &[&str] = &["num_", "nr_", "n_", "number_of_", "no_of_"];
const COUNT_SUFFIXES: &[&str] = &["_count", "_number", "_value", "_setting"];

/// Returns a name in snake case: `max_downtime` for `maxDowntime` and `max-downtime`.
pub(super) fn snake(name: &str) -> String {
    let mut snake = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_lower {
            snake.push('_');
        }
        after_lower = c.is_ascii_lowercase();
        snake.push(if matches!(c, '-' | ' ') { '_' } else { c.to_ascii_lowercase() });
    }
    snake
}

/// Returns the forms of a name to look for, the closest first: as it is, without a unit at its end, without a
/// prefix that says that it is a number, and each of these in the singular and the plural. All are in the
/// form that [`plain`] returns.
pub(super) fn forms(name: &str) -> Vec<String> {
    let whole = snake(name);
    let bare = UNIT_SUFFIXES.iter().find_map(|suffix| whole.strip_suffix(suffix)).unwrap_or(&whole);
    let counted = COUNT_PREFIXES.iter().find_map(|prefix| bare.strip_prefix(prefix)).unwrap_or(bare);
    let counted = COUNT_SUFFIXES.iter().find_map(|suffix| counted.strip_suffix(suffix)).unwrap_or(counted);
    let forms = [&whole, bare, counted].map(plain);
    let other_number = |form: &String| form.strip_suffix('s').map_or_else(|| format!("{form}s"), Into::into);
    let others: Vec<String> = forms.iter().map(other_number).collect();
    forms.into_iter().chain(others).collect()
}

/// Returns the keys for which another name is known, in the order of the list. `form` is one of [`forms`].
pub(super) fn keys(form: &str) -> Vec<&'static str> {
    let known = SYNONYMS.iter().filter(|(_, others)| others.iter().any(|other| plain(other) == form));
    known.map(|(key, _)| *key).collect()
}

/// Returns all other names.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    SYNONYMS.iter().flat_map(|(_, others)| others.iter().copied())
}

/// Returns the word among `known` for which `found` is another word.
pub(super) fn word<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let found = plain(found);
    let mut ours = WORDS.iter().filter(|(_, others)| others.iter().any(|other| plain(other) == found));
    ours.find_map(|(word, _)| known.iter().copied().find(|known| known == word))
}
