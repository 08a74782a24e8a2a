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
fn quantities_are_compared_rather_than_texts() {
    let s = settings("96MB/s", "0");
    for (expression, expected) in [
        ("stress.rate == 96000kB/s", true),
        ("stress.rate != 96000kB/s", false),
        ("stress.rate < 96MB/s", false),
        ("stress.rate <= 96MB/s", true),
        ("stress.rate > 9MB/s", true),
        ("stress.rate >= 1GB/s", false),
        ("link.delay == 0ms", true),
        ("link.loss == 0%", true),
        ("link.loss < 0.1%", true),
        ("link.loss_bursts == none", true),
        ("stress.content == random", true),
        ("stress.content == compressible:25.0%", false),
        ("stress.rate < unlimited", true),
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
fn unlimited_exceeds_every_rate() {
    let mut s = Settings::default();
    s.stress.rate = "unlimited".parse().unwrap();
    assert!(holds("stress.rate > 1TB/s and stress.rate == unlimited", &s));
    assert!(!holds("stress.rate <= 1TB/s", &s));
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
        (format!("NOT not {yes} AND {yes} Or {yes}"), true),
        ("migrate.stall_detection == Yes and link.queue == NONE and guest.accel == AUTO".into(), true),
        (format!("({yes})and({yes})"), true),
    ] {
        assert_eq!(holds(&expression, &s), expected, "{expression}");
    }
}

#[test]
fn an_error_is_shown_with_its_expression() {
    let expression = "guest.accel == kwm";
    assert_eq!(
        expression.parse::<Expression>().unwrap_err().show(expression),
        "`kwm` is not one of `auto`, `kvm`, `tcg`\n  |\n  | guest.accel == kwm\n  \
         |                ^^^\n  = help: did you mean `kvm`?"
    );
}

/// Returns the error in an invalid expression, with carets under the invalid part.
fn error(expression: &str) -> String {
    let error = expression.parse::<Expression>().expect_err(expression);
    let marker = format!("{}{}", " ".repeat(error.offset), "^".repeat(error.length.max(1)));
    let help = error.help.map(|help| format!("\nhelp: {help}")).unwrap_or_default();
    format!("{expression}\n{marker} {}{help}", error.message)
}

#[test]
fn an_error_marks_the_invalid_part() {
    let cases = [
        "stress.rat <= 96MB/s
^^^^^^^^^^ `stress.rat` is not a setting
help: did you mean `stress.rate`?",
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
help: did you mean `kvm`?",
        "guest.accel < kvm
            ^ `guest.accel` has no order, so `<` does not apply
help: compare it with == or !=",
        "guest.vcpus == many
               ^^^^ `many` is not a number",
        "migrate.stall_detection == yep
                           ^^^ `yep` is neither `true` nor `false`",
        "guest.cpu == 'max
             ^^^^ missing closing ' of a quoted value",
    ];
    for expected in cases {
        let expression = expected.lines().next().unwrap_or_default();
        assert_eq!(error(expression), expected);
    }
    assert!(error("stress.content == randm").contains("`randm` is not a page content"));
    assert!(error("stress.phases == 1").contains("is not a single value"));
    assert!(error("link.loss < 1").contains("is not a percentage"));
    assert!(error("stress.rate <= 96").contains("`96` has no unit"));
    assert!(error("stress.rate <= 96MB").contains("`MB` is not a unit of a data rate"));
    assert!(error(&"(".repeat(100_000)).ends_with("nested too deeply"));
    assert!(error(&"not ".repeat(100_000)).ends_with("nested too deeply"));
}

#[test]
fn the_text_survives_serialization_and_the_paths_are_listed() {
    let expression: Expression =
        "stress.rate > 1MB/s and not (stress.rate == 2MB/s or link.delay > 0)".parse().unwrap();
    assert_eq!(expression.paths(), ["stress.rate", "link.delay"]);
    let json = serde_json::to_string(&expression).unwrap();
    assert_eq!(serde_json::from_str::<Expression>(&json).unwrap(), expression);
}
