//! The program as people meet it: exit codes, messages, JSON; in a namespace made for each test.

mod common;

use common::{namespace, pair, program};
use netem::Namespace;
use std::process::Output;

fn netem(namespace: &Namespace, args: &str) -> Output {
    namespace.run(|| program().args(args.split_ascii_whitespace()).output()).unwrap()
}

/// Runs what should work, and gives what it prints.
#[track_caller]
fn prints(namespace: &Namespace, args: &str) -> String {
    let output = netem(namespace, args);
    assert!(output.status.success(), "netem {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn bad_input_is_refused_with_a_message_and_nothing_is_touched() {
    let Some(pair) = pair().await else { return };
    let before = pair.near.show("near").await.unwrap();
    for (args, says) in [
        ("apply near --loss 101%", "cannot exceed 100%"),
        ("apply near --loss 1", "write it with its sign"),
        ("apply near --delay 20", "has no unit"),
        ("apply near --rate fast", "--rate"),
        ("apply near --rate 10bit", "rate: 10bit is not between 1kbit and 10tbit"),
        ("apply near --delay 1ms --jitter 2ms", "jitter: 2ms is more than the delay"),
        ("apply near --queue 1MB", "queue: means nothing without `rate`"),
        ("apply near --rate 1mbit --burst 100B", "does not hold one frame of 1514B"),
        ("apply near --loss-bursts 1%", "at least two percentages"),
        ("apply near --profile gigabt", "gigabit"),
        ("apply near", "nothing to apply"),
        ("apply naer --rate 1mbit", "there is no interface `naer` here; did you mean `near`?"),
        ("show nowhere-at-all", "there is no interface `nowhere-at-all` here"),
        ("change near --rate 1mbit", "near has no profile to change; apply one first"),
        ("change near --ingress --rate 1mbit", "near has no profile to change; apply one first"),
        ("measure", "required"),
        ("measure 127.0.0.1 --time 1ms", "--time: 1ms is not between 100ms and 1h"),
    ] {
        let output = netem(&pair.near_namespace, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "netem {args}: {stderr}");
        assert!(stderr.contains(says), "netem {args}: {stderr}");
        assert!(output.stdout.is_empty(), "netem {args}");
    }
    let after = pair.near.show("near").await.unwrap();
    assert_eq!(
        after.iter().map(|q| &q.kind).collect::<Vec<_>>(),
        before.iter().map(|q| &q.kind).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn apply_show_change_and_clear_say_what_they_did() {
    let Some(pair) = pair().await else { return };
    let here = &pair.near_namespace;
    assert_eq!(
        prints(here, "apply near --rate 928mbit"),
        "near: backend kernel\n  tbf 6e60: parent root rate 928mbit burst 232kB limit 2900kB\n"
    );
    assert!(
        prints(here, "change near --rate 940mbit").starts_with("near: backend kernel, changed in place\n")
    );
    prints(here, "apply near --ingress --rate 10mbit --shaper htb");
    let shown: serde_json::Value = serde_json::from_str(&prints(here, "show near --json")).unwrap();
    assert_eq!(shown["sends"], serde_json::json!({ "rate": "940mbit" }));
    assert_eq!(shown["receives"], serde_json::json!({ "rate": "10mbit", "shaper": "htb" }));
    assert_eq!(shown["qdiscs"][0]["kind"], "tbf");
    assert_eq!(shown["qdiscs"][0]["settings"]["tbf"]["rate"], "940mbit");
    assert!(shown["counters"]["tx_bytes"].is_u64());
    assert!(prints(here, "show near").contains("sends:    {rate:940mbit}"));
    assert_eq!(prints(here, "clear near"), "near: cleared\n");
    assert_eq!(prints(here, "clear near"), "near: nothing was applied\n");
}

#[test]
fn supported_names_every_feature_and_profile() {
    let Some(namespace) = namespace() else { return };
    let text = prints(&namespace, "supported");
    for name in ["sch_tbf", "sch_netem", "CONFIG_NET_SCH_NETEM", "gigabit", "transatlantic", "satellite"] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
}

#[test]
fn the_command_line_is_consistent() {
    netem::cli::command().debug_assert();
}
