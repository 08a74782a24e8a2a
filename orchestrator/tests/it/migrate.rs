//! The section `migrate`: any combination of settings is either a plan, or refused with a reason before
//! anything starts.

use testbed::matrix::{File, Plan};

/// Settings that are valid together, whatever else is given.
const VALID: &[&str] = &[
    "tls: true",
    "return_path: true",
    "release_ram: true",
    "zero_page_detection: legacy",
    "announce_rounds: 0",
    "announce_max: 2s",
    "avail_switchover_bandwidth: 1gbit",
    "max_bandwidth: 30MB/s",
    "downtime_limit: 500ms",
];

/// Settings, each with the settings that it needs and values that it does not accept.
const INVALID: &[(&str, &str, &[&str])] = &[
    ("mode", "", &["live", "rdma", "7"]),
    ("auto_converge", "", &["maybe", "2", "20%"]),
    ("cpu_throttle_initial", "auto_converge: true", &["0%", "100%", "12.5%", "20", "-1%"]),
    ("cpu_throttle_increment", "auto_converge: true", &["0%", "100%", "1MB"]),
    ("max_cpu_throttle", "auto_converge: true", &["0%", "100%"]),
    ("throttle_trigger_threshold", "auto_converge: true", &["0%", "101%"]),
    ("cpu_throttle_tailslow", "auto_converge: true", &["slow"]),
    ("vcpu_dirty_limit", "dirty_limit: true", &["1MB/s", "0", "1"]),
    ("x_vcpu_dirty_limit_period", "dirty_limit: true", &["0", "2s", "1us", "500"]),
    ("xbzrle_cache_size", "xbzrle: true", &["3MiB", "2KiB", "0", "64M"]),
    ("multifd_channels", "multifd: true", &["0", "256", "-1", "1.5", "many"]),
    ("multifd_zlib_level", "multifd: true", &["10", "-1"]),
    ("multifd_zstd_level", "multifd: true", &["21"]),
    ("multifd_qatzip_level", "multifd: true", &["0", "10"]),
    ("zero_page_detection", "", &["off", "fast"]),
    ("announce_initial", "", &["101s", "1us", "50"]),
    ("announce_step", "", &["0", "11s", "1500us"]),
    ("announce_rounds", "", &["1001", "-1"]),
    ("pause_after_passes", "", &["-1", "1.5"]),
    ("pause_after", "", &["3", "1us"]),
    ("compress_threads", "compress: true", &["0", "256"]),
    ("compress_level", "compress: true", &["10"]),
    ("postcopy_after_passes", "mode: postcopy", &["0", "-1"]),
    ("postcopy_after", "mode: postcopy", &["3", "1us"]),
    ("max_postcopy_bandwidth", "mode: postcopy", &["9B/s", "1"]),
    ("postcopy_recovery", "mode: postcopy", &["5", "1us", "never"]),
    // Settings without an effect are refused as well.
    ("cpu_throttle_initial", "", &["20%"]),
    ("multifd_compression", "", &["zstd"]),
    ("multifd_channels", "xbzrle: true", &["2"]),
    ("xbzrle_cache_size", "multifd: true", &["64MiB"]),
    ("save_live", "", &["true"]),
    ("mapped_ram", "multifd: true", &["true"]),
    ("direct_io", "mode: precopy", &["true"]),
    ("postcopy_preempt", "", &["true"]),
    ("postcopy_recovery", "", &["10s"]),
    ("transport", "", &["udp"]),
    ("pause_at_stall", "mode: postcopy", &["true"]),
    ("decompress_threads", "multifd: true", &["2"]),
    ("postcopy_at_stall", "mode: precopy", &["true"]),
];

/// A generator that always returns the same numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// Returns some of the settings that are always valid, in a new order.
    fn some_valid(&mut self) -> Vec<&'static str> {
        let mut settings: Vec<&str> = VALID.to_vec();
        while self.below(4) > 0 && !settings.is_empty() {
            settings.remove(self.below(settings.len()));
        }
        settings
    }
}

fn plan(settings: &[String]) -> Result<Plan, String> {
    let text = format!("name: n\nmigrate: {{ {} }}\n", settings.join(", "));
    File::parse(&text, "n").and_then(|file| file.expand()).map_err(|errors| errors.to_string())
}

#[test]
fn random_settings_that_are_valid_are_a_plan_and_invalid_ones_are_refused_with_their_name() {
    let mut numbers = Numbers(15);
    for _ in 0..2000 {
        let mut settings: Vec<String> = numbers.some_valid().into_iter().map(Into::into).collect();
        let (name, needs, values) = INVALID[numbers.below(INVALID.len())];
        settings.retain(|setting| !setting.starts_with(&format!("{name}:")));
        settings.extend((!needs.is_empty()).then(|| needs.to_owned()));
        plan(&settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
        settings.push(format!("{name}: {}", values[numbers.below(values.len())]));
        let refusal = plan(&settings).expect_err(&settings.join(", "));
        assert!(refusal.contains(name), "{settings:?}: {refusal}");
    }
}
