use super::*;

fn settings(rate: &str, delay: &str) -> Settings {
    let mut settings = Settings::default();
    settings.stress.rate = rate.parse().unwrap();
    settings.link.delay = delay.parse().unwrap();
    settings
}

fn holds(expression: &str, settings: &Settings) -> bool {
    expression.parse::<Expression>().unwrap_or_else(|e| panic!("{expression}: {e}")).matches(settings)
}

#[test]
fn comparisons_use_the_quantity_and_not_the_text() {
    let s = settings("96MB/s", "0");
    for (expression, expected) in [
        ("stress.rate == 96000kB/s", true),
        ("stress.rate != 96000kB/s", false),
        ("stress.rate < 96MB/s", false),
        ("stress.rate <= 96MB/s", true),
        ("stress.rate > 9MB/s", true),
        ("stress.rate >= 1GB/s", false),
        ("link.delay == 0ms", true),
        ("link.delay == 0", true),
        ("link.rate == none", true),
        ("link.rate < 1gbit", false),
        ("link.rate > 1gbit", false),
        ("guest.accel == auto", true),
        ("guest.accel != 'kvm'", true),
        ("guest.vcpus >= 1", true),
        ("guest.vcpus < 1.5", true),
        ("migrate.stall_detection == true", true),
        ("guest.cpu == \"qemu 64\"", false),
        ("stress.working_set == 1s", true),
        ("stress.working_set == 96MB", true),
        ("stress.working_set < 95MB", false),
    ] {
        assert_eq!(holds(expression, &s), expected, "{expression}");
    }
}

#[test]
fn rates_in_bits_and_bytes_compare() {
    let mut s = Settings::default();
    s.migrate.max_bandwidth = Some("800mbit".parse().unwrap());
    assert!(holds("migrate.max_bandwidth == 100MB/s", &s));
    assert!(holds("migrate.max_bandwidth < 801mbit", &s));
    assert!(!holds("migrate.max_bandwidth == none", &s));
}

#[test]
fn not_binds_tighter_than_and_and_and_tighter_than_or() {
    let s = settings("96MB/s", "20ms");
    let (yes, no) = ("link.delay == 20ms", "link.delay == 0");
    for (expression, expected) in [
        (format!("{yes} or {no} and {no}"), true),
        (format!("({yes} or {no}) and {no}"), false),
        (format!("not {no} and {yes}"), true),
        (format!("not ({no} or {yes})"), false),
        (format!("not not {yes}"), true),
        (format!("({yes})and({yes})"), true),
    ] {
        assert_eq!(holds(&expression, &s), expected, "{expression}");
    }
}

/// What is wrong, marked in the expression itself.
fn error(expression: &str) -> String {
    let error = expression.parse::<Expression>().expect_err(expression);
    let marker = format!("{}{}", " ".repeat(error.offset), "^".repeat(error.length.max(1)));
    let help = error.help.map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    format!("{expression}\n{marker} {}{help}", error.message)
}

#[test]
fn an_error_points_at_the_culprit() {
    let cases = [
        "stress.rat <= 96MB/s
^^^^^^^^^^ `stress.rat` is not a setting
help: the nearest setting is `stress.rate`",
        "stress.rate = 96MB/s
            ^ `=` is not an operator
help: equality is written `==`",
        "stress.rate <= 96MB/s && link.delay == 0
                      ^^ `&&` is not an operator
help: write `and`",
        "stress.rate <=
              ^ expected a value, found the end",
        "stress.rate 96MB/s
            ^^^^^^ expected an operator after `stress.rate`, found `96MB/s`
help: the operators are ==, !=, <, <=, > and >=",
        "stress.rate <= 96MB/s link.delay == 0
                      ^^^^^^^^^^ expected `and`, `or` or the end, found `link.delay`
help: join comparisons with `and` or `or`; quote a value that has spaces",
        "(link.delay == 0
^ `(` without `)`",
        "link.delay == 0)
               ^ `)` without `(`",
        "
^ expected a setting, found the end
help: a comparison is written like `stress.rate <= 96MB/s`",
        "guest.accel == kwm
               ^^^ `kwm` is not one of `auto`, `kvm`, `tcg`
help: the nearest is `kvm`",
        "guest.accel < kvm
            ^ `guest.accel` has no order, so `<` does not apply
help: compare it with == or !=",
        "guest.vcpus == many
               ^^^^ `many` is not a number",
        "migrate.stall_detection == yes
                           ^^^ `yes` is neither `true` nor `false`",
        "guest.cpu == 'max
             ^^^^ a quoted value without the closing '",
    ];
    for expected in cases {
        let expression = expected.lines().next().unwrap_or_default();
        assert_eq!(error(expression), expected);
    }
    assert!(error("stress.rate <= 96").contains("`96` has no unit"));
    assert!(error("stress.rate <= 96MB").contains("`MB` is not a unit of a data rate"));
    assert!(error(&"(".repeat(100_000)).ends_with("nested too deeply"));
    assert!(error(&"not ".repeat(100_000)).ends_with("nested too deeply"));
}

#[test]
fn the_text_survives_and_the_paths_are_listed() {
    let expression: Expression =
        "stress.rate > 1MB/s and not (stress.rate == 2MB/s or link.delay > 0)".parse().unwrap();
    assert_eq!(expression.paths(), ["stress.rate", "link.delay"]);
    let json = serde_json::to_string(&expression).unwrap();
    assert_eq!(serde_json::from_str::<Expression>(&json).unwrap(), expression);
}
