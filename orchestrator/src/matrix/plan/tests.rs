use super::*;
use crate::matrix::File;

fn plan(text: &str) -> Plan {
    let file = File::parse(text, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    file.expand().unwrap_or_else(|e| panic!("{e}"))
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.cells.iter().map(|cell| cell.id.as_str()).collect()
}

#[test]
fn the_last_axis_varies_fastest() {
    let plan =
        plan("name: n\naxes:\n  stress.rate: [0, 16MB/s]\n  link.delay: [0, 20ms]\n  guest.vcpus: [1]\n");
    assert_eq!(
        ids(&plan),
        [
            "stress.rate=0,link.delay=0,guest.vcpus=1",
            "stress.rate=0,link.delay=20ms,guest.vcpus=1",
            "stress.rate=16MBps,link.delay=0,guest.vcpus=1",
            "stress.rate=16MBps,link.delay=20ms,guest.vcpus=1",
        ]
    );
    assert_eq!(plan.cells[3].settings.link.delay, units::Span::from_millis(20));
    assert_eq!(plan.axis_paths(), ["stress.rate", "link.delay", "guest.vcpus"]);
    let axes: Vec<_> = plan.cells[2].axes.iter().map(|(path, text)| format!("{path} {text}")).collect();
    assert_eq!(axes, ["stress.rate 16MB/s", "link.delay 0", "guest.vcpus 1"]);
}

#[test]
fn without_axes_there_is_one_cell_or_those_of_include() {
    assert_eq!(ids(&plan("name: n\n")), ["base"]);
    let included = plan("name: n\ninclude:\n  - { stress.rate: 1MB/s }\n  - { stress.rate: 2MB/s }\n");
    assert_eq!(ids(&included), ["stress.rate=1MBps", "stress.rate=2MBps"]);
}

#[test]
fn a_cell_overrides_only_the_settings_it_sets() {
    let plan = plan(
        "name: n\nguest: { memory: 2GiB }\nmigrate: { timeout: 10s }\n\
         axes: { migrate.downtime_limit: [30ms, 300ms] }\n",
    );
    for cell in &plan.cells {
        assert_eq!(cell.settings.guest.memory.to_string(), "2GiB");
        assert_eq!(cell.settings.migrate.timeout.to_string(), "10s");
        assert_eq!(cell.settings.migrate.downtime_limit.to_string(), cell.axes["migrate.downtime_limit"]);
    }
}

#[test]
fn an_axis_of_mappings_varies_settings_together_without_leaking_into_the_next_cell() {
    let plan = plan(
        "name: n\nlink: { delay: 5ms }\naxes:\n  policy:\n    \
         - { migrate.timeout: 10s, link.delay: 1ms }\n    \
         - { migrate.timeout: 20s }\n",
    );
    assert_eq!(ids(&plan), ["migrate.timeout=10s,link.delay=1ms", "migrate.timeout=20s"]);
    assert_eq!(plan.cells[1].settings.link.delay, units::Span::from_millis(5));
}

#[test]
fn exclude_takes_conditions_and_mappings_and_does_not_apply_to_include() {
    let plan = plan(
        "name: n\naxes:\n  stress.rate: [0, 16MB/s, 32MB/s]\n  link.delay: [0, 20ms]\n\
         exclude:\n  - stress.rate >= 16MB/s and link.delay == 0\n  - { stress.rate: 0, link.delay: 20ms }\n\
         include:\n  - { stress.rate: 64MB/s, link.delay: 0 }\n",
    );
    assert_eq!(
        ids(&plan),
        [
            "stress.rate=0,link.delay=0",
            "stress.rate=16MBps,link.delay=20ms",
            "stress.rate=32MBps,link.delay=20ms",
            "stress.rate=64MBps,link.delay=0",
        ]
    );
    let indexes: Vec<_> = plan.cells.iter().map(|cell| cell.index).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
}

#[test]
fn ids_use_the_canonical_form_of_a_value() {
    let plan = plan("name: n\naxes: { guest.memory: [2000MB, 1024MiB] }\n");
    assert_eq!(ids(&plan), ["guest.memory=2GB", "guest.memory=1GiB"]);
}

#[test]
fn ids_are_file_names_and_stay_distinct() {
    let plan = plan("name: n\naxes: { guest.cpu: [\"a b\", a/b, null, 'qemu64,+x'] }\n");
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".,=_-".contains(c);
    let distinct: std::collections::HashSet<_> = ids(&plan).into_iter().collect();
    assert_eq!(distinct.len(), 4);
    assert!(distinct.iter().all(|id| id.chars().all(allowed)), "{distinct:?}");
    assert!(distinct.contains("guest.cpu=none"));
}

const FIVE: &str = "name: n\naxes: { stress.rate: [1MB/s, 2MB/s, 3MB/s, 4MB/s, 5MB/s] }\n";

#[test]
fn every_cell_is_measured_once_before_any_is_measured_again() {
    for order in ["repeat: 3", "repeat: 3\norder: shuffled"] {
        let plan = plan(&format!("{FIVE}{order}\n"));
        let attempts = plan.attempts();
        assert_eq!(attempts.len(), 15);
        for (round, attempts) in attempts.chunks(5).enumerate() {
            let mut cells: Vec<_> = attempts.iter().map(|a| a.cell).collect();
            cells.sort_unstable();
            assert_eq!(cells, [0, 1, 2, 3, 4]);
            assert!(attempts.iter().all(|a| a.number == round as u32 + 1));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_order_and_another_seed_another() {
    let order = |seed: &str| {
        let plan = plan(&format!("{FIVE}repeat: 4\norder: shuffled\n{seed}"));
        plan.attempts().iter().map(|a| a.cell).collect::<Vec<_>>()
    };
    assert_eq!(order("seed: 1\n"), order("seed: 1\n"));
    assert_ne!(order("seed: 1\n"), order("seed: 2\n"));
    assert_eq!(order(""), order(""));
    let rounds: Vec<_> = order("seed: 1\n").chunks(5).map(<[_]>::to_vec).collect();
    assert!(rounds.iter().any(|round| *round != rounds[0]), "each round has its own order");
}

#[test]
fn filters_keep_the_order_of_the_remaining_cells() {
    let whole = plan(&format!("{FIVE}repeat: 2\norder: shuffled\nseed: 3\n"));
    let condition = "stress.rate != 3MB/s".parse().unwrap();
    let part = whole.clone().only(&condition);
    assert_eq!(part.cells.len(), 4);
    let order = |plan: &Plan| -> Vec<String> {
        plan.attempts().iter().map(|a| plan.cells[a.cell].id.clone()).collect()
    };
    let mut expected = order(&whole);
    expected.retain(|id| id != "stress.rate=3MBps");
    assert_eq!(order(&part), expected);
}

#[test]
fn shards_are_disjoint_and_together_have_all_cells() {
    let whole = plan(FIVE);
    for count in 1..=7 {
        let mut seen: Vec<usize> = (1..=count)
            .flat_map(|number| whole.clone().shard(format!("{number}/{count}").parse().unwrap()).cells)
            .map(|cell| cell.index)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4], "{count} shards");
    }
    assert_eq!(whole.shard("2/3".parse().unwrap()).cells.iter().map(|c| c.index).collect::<Vec<_>>(), [1, 4]);
}

#[test]
fn the_shards_together_make_all_attempts_in_the_order_of_the_whole_plan() {
    for order in ["", "order: shuffled\n", "order: shuffled\nseed: 7\n"] {
        let whole = plan(&format!("{FIVE}repeat: 3\n{order}")).only(&"stress.rate != 2MB/s".parse().unwrap());
        let attempts = |plan: &Plan| -> Vec<(String, u32)> {
            plan.attempts().iter().map(|a| (plan.cells[a.cell].id.clone(), a.number)).collect()
        };
        let all = attempts(&whole);
        for count in 1..=6 {
            let shards: Vec<_> =
                (1..=count).map(|n| format!("{n}/{count}").parse::<Shard>().unwrap()).collect();
            let parts: Vec<Plan> = shards.iter().map(|shard| whole.clone().shard(*shard)).collect();
            let mut left = all.clone();
            for (shard, part) in shards.iter().zip(&parts) {
                assert_eq!(*part, whole.clone().shard(*shard), "sharding is deterministic");
                let own = attempts(part);
                let mut expected = all.clone();
                expected.retain(|attempt| own.contains(attempt));
                assert_eq!(own, expected, "{shard}: in the order of the whole plan");
                let before = left.len();
                left.retain(|attempt| !own.contains(attempt));
                assert_eq!(before - left.len(), own.len(), "{shard}: no attempt of another shard");
                let positions = (0..whole.cells.len()).filter(|p| Shard::at(*p, count) == *shard);
                assert!(positions.map(|p| &whole.cells[p]).eq(&part.cells), "{shard}");
            }
            assert_eq!(left, [], "{count} shards");
        }
    }
}

#[test]
fn a_plan_survives_serialization() {
    let whole = plan(&format!(
        "{FIVE}order: shuffled\nexpect: [{{ where: stress.rate > 1MB/s, outcome: converged }}]\n"
    ));
    let json = serde_json::to_string(&whole).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), whole);
}

#[test]
fn the_threshold_example_expands_as_designed() {
    let plan = plan(
        r#"
name: icclab-threshold
guest:   { memory: 1GiB, vcpus: 1 }
link:    { rate: 940mbit, delay: 0ms }
stress:  { rate: 96MB/s, working_set: 96MB, content: random }
migrate: { mode: precopy, downtime_limit: 300ms, timeout: 60s }
axes:
  stress.rate: [0, 16MB/s, 32MB/s, 48MB/s, 64MB/s, 80MB/s, 96MB/s, 112MB/s, 128MB/s]
repeat: 3
expect:
  - { where: "stress.rate <= 96MB/s", outcome: converged }
  - { where: "stress.rate >= 112MB/s", outcome: not-converged }
"#,
    );
    assert_eq!((plan.cells.len(), plan.attempts().len()), (9, 27));
    let outcomes: Vec<_> = plan
        .cells
        .iter()
        .flat_map(|cell| plan.expect.iter().filter(|expected| expected.applies_to(&cell.settings)))
        .filter_map(|expected| expected.outcome)
        .map(|outcome| outcome.to_string())
        .collect();
    assert_eq!(outcomes[..7], ["converged"; 7]);
    assert_eq!(outcomes[7..], ["not-converged"; 2]);
    let workload = plan.cells[7].settings.workload();
    assert_eq!(workload.working_set, units::Bytes::new(96_000_000));
    assert_eq!(workload.rate.to_string(), "112MB/s");
}

#[test]
fn a_timeline_varies_like_any_other_setting() {
    let plan = plan(
        "name: n\nlink: { rate: 100mbit }\nstress: { rate: 64MB/s }\n\
         axes:\n  timeline:\n    - []\n    - [{ at: 2s, stress: { rate: 0 } }]\n\
         include:\n  - { stress.rate: 32MB/s, timeline: [{ at: 1s, link: { rate: 50mbit, delay: 0 } }] }\n",
    );
    let shown: Vec<&str> = plan.cells.iter().map(|cell| cell.axes["timeline"].as_str()).collect();
    assert_eq!(
        shown,
        [
            "none",
            r#"[{"at":"2s","stress":{"rate":"0"}}]"#,
            r#"[{"at":"1s","link":{"delay":"0","rate":"50mbit"}}]"#
        ]
    );
    assert!(ids(&plan)[1].len() <= 120 && ids(&plan)[1] != ids(&plan)[2]);
    let steps: Vec<_> = plan.cells.iter().map(|cell| cell.settings.steps()).collect();
    assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1]);
    assert!(steps[1][0].workload.as_ref().is_some_and(|workload| workload.rate.is_idle()));
    assert!(steps[2][0].workload.is_none());
    let read: Vec<Settings> = plan
        .cells
        .iter()
        .map(|cell| serde_json::from_value(serde_json::to_value(&cell.settings).unwrap()).unwrap())
        .collect();
    assert!(read.iter().zip(&plan.cells).all(|(read, cell)| *read == cell.settings), "{read:#?}");
}

#[test]
fn a_baseline_has_the_same_value_of_every_setting_that_is_not_named() {
    let plan = plan(
        "name: n\naxes:\n  stress.rate: [1MB/s, 2MB/s]\n  \
         policy:\n    - { link.delay: 0, guest.vcpus: 2 }\n    - { link.delay: 10ms, guest.vcpus: 1 }\n    \
         - { link.delay: 20ms }\n\
         expect:\n\
         - { where: link.delay == 0 and stress.rate == 2MB/s, \
         relative_to: link.delay == 10ms and guest.vcpus == 1, total_time: < 100% }\n\
         - { where: link.delay < 20ms, relative_to: link.delay == 20ms and not guest.vcpus == 2, \
         total_time: < 100% }\n\
         - { where: link.delay == 20ms, outcome: converged }\n",
    );
    let pairs = |expectation: usize| -> Vec<String> {
        let cells = plan.cells_of(&plan.expect[expectation]);
        let name = |cell: &Cell| format!("{} {}", cell.settings.stress.rate, cell.settings.link.delay);
        let pair = |(cell, baseline): (&Cell, Option<&Cell>)| {
            format!("{} | {}", name(cell), baseline.map_or("none".into(), name))
        };
        cells.into_iter().map(pair).collect()
    };
    assert_eq!(pairs(0), ["2MB/s 0 | 2MB/s 10ms"]);
    assert_eq!(
        pairs(1),
        [
            "1MB/s 0 | 1MB/s 20ms",
            "1MB/s 10ms | 1MB/s 20ms",
            "2MB/s 0 | 2MB/s 20ms",
            "2MB/s 10ms | 2MB/s 20ms"
        ]
    );
    assert_eq!(pairs(2), ["1MB/s 20ms | none", "2MB/s 20ms | none"]);
}
