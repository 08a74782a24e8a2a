use super::*;

#[test]
fn each_unit_has_its_documented_size() {
    assert_eq!("96MB".parse(), Ok(Bytes::new(96_000_000)));
    assert_eq!("1GiB".parse(), Ok(Bytes::new(1 << 30)));
    assert_eq!("1.5 GiB".parse(), Ok(Bytes::new(3 << 29)));
    assert_eq!("0.001kB".parse(), Ok(Bytes::new(1)));
    assert_eq!("96MB/s".parse(), Ok(ByteRate::new(96_000_000)));
    assert_eq!("940mbit".parse(), Ok(BitRate::new(940_000_000)));
    assert_eq!("300ms".parse(), Ok(Span::from_millis(300)));
    assert_eq!("2min".parse(), Ok(Span::from_secs(120)));
    assert_eq!("0".parse(), Ok(Span::ZERO));
    assert_eq!(" 0.0 ".parse(), Ok(Bytes::ZERO));
}

/// Checks that texts are read as the canonical text, which is the one that is printed.
fn reads_as<Q: FromStr<Err = ParseError> + fmt::Display>(canonical: &str, texts: &[&str]) {
    for text in texts {
        let read = text.parse::<Q>().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.to_string(), canonical, "{text}");
    }
}

#[test]
fn spellings_of_other_programs_are_read_and_printed_in_ours() {
    reads_as::<Bytes>("512MiB", &["512Mi", "512mib", "512MIB", "512 MiB", "0.5Gi", "524288Ki", "0.5gib"]);
    reads_as::<Bytes>("96MB", &["96mb", "96mB", "96000KB", "96000kb", "96000000b", "96000000 bytes"]);
    reads_as::<Bytes>("2TiB", &["2Ti", "2tib", "2048gib"]);
    reads_as::<Bytes>("1TB", &["1tb", "1000gb", "1tB"]);
    reads_as::<ByteRate>("96MB/s", &["96mb/s", "96mB/s", "96MB/S", "96MBps", "96 MB/sec", "96000KB/s"]);
    reads_as::<ByteRate>("32MiB/s", &["32mib/s", "32MIB/s", "32MiBps", "32768KiB/s", "32 MiB/sec"]);
    reads_as::<ByteRate>("9B/s", &["9 bytes/s", "9Bps", "9B/sec"]);
    reads_as::<BitRate>("1gbit", &["1000Mbit", "1 Gbit", "1Gbit/s", "1GBIT", "1 Gbits/sec", "1000000Kbit"]);
    reads_as::<BitRate>("500kbit", &["500Kbit", "500kbit/s", "500Kbits/s", "0.5mbits", "500000bit"]);
    reads_as::<BitRate>("1048576bit", &["1Mibit", "1024Kibit", "1 mibit/s"]);
    reads_as::<Span>("90s", &["1m30s", "1min30s", "1m 30s", "1 min 30 sec", "30s1m", "1.5m", "90 seconds"]);
    reads_as::<Span>("120s", &["2m", "2 minutes", "120sec", "2MIN", "120S", "2min"]);
    reads_as::<Span>("250us", &["250usec", "250\u{b5}s", "250\u{3bc}s", "0.25ms", "250US"]);
    reads_as::<Span>("300ms", &["300msec", "300MS", "300 milliseconds", "0.3 s"]);
    reads_as::<Span>("26h", &["1d2h", "1 day 2 hours", "26 hr"]);
    reads_as::<Span>("5400500ms", &["1h30m500ms", "1h30m0.5s"]);
}

#[test]
fn a_unit_with_several_meanings_is_answered_with_each() {
    fn answer<Q: FromStr<Err = ParseError> + fmt::Debug>(text: &str) -> String {
        let error = text.parse::<Q>().unwrap_err();
        assert!(matches!(error, ParseError::Ambiguous { .. }), "{text}: {error}");
        error.to_string()
    }
    assert_eq!(
        answer::<BitRate>("100mbps"),
        "`100mbps` is ambiguous: write `800mbit` for bytes per second (as in tc), or `100mbit` for bits per \
         second"
    );
    for text in ["100Mbps", "100 MBPS", "100Mb/s", "100mb/s", "100Mb", "100M", "100M/s", "100m"] {
        let message = answer::<BitRate>(text);
        assert!(message.contains("`800mbit`") && message.contains("`100mbit`"), "{message}");
    }
    for text in ["8Gbps", "8gbps", "8Gb/s", "8Gb", "8Gb/sec"] {
        let message = answer::<ByteRate>(text);
        assert!(message.contains("`8GB/s`") && message.contains("`1GB/s`"), "{message}");
    }
    for text in ["8kb/s", "8Kb/s", "8kbps"] {
        assert!(answer::<ByteRate>(text).contains("`8kB/s`"));
    }
    for text in ["96M", "96m", "96M/s", "96MBytes/sec"] {
        let message = answer::<ByteRate>(text);
        assert!(message.contains("`96MB/s` for 10^6 bytes, or `96MiB/s` for 2^20 bytes"), "{message}");
    }
    for text in ["512M", "512m", "512Mb", "512 MBytes"] {
        let message = answer::<Bytes>(text);
        assert!(message.contains("`512MB` for 10^6 bytes, or `512MiB` for 2^20 bytes"), "{message}");
    }
    assert!(answer::<Bytes>("1G").contains("`1GB` for 10^9 bytes, or `1GiB` for 2^30 bytes"));
    assert!(answer::<Span>("2M").contains("`120s` for minutes"));
}

#[test]
fn a_unit_of_a_related_quantity_is_converted() {
    let message = |error: ParseError| error.to_string();
    let bit_rate = |text: &str| message(text.parse::<BitRate>().unwrap_err());
    assert!(bit_rate("96MB/s").contains("(did you mean `768mbit`?)"));
    assert!(bit_rate("96MBps").contains("(did you mean `768mbit`?)"));
    assert!(bit_rate("100MB").contains("(did you mean `800mbit`?)"));
    assert!(message("96MB/s".parse::<Bytes>().unwrap_err()).contains("(did you mean `96MB`?)"));
    assert!(message("3bit".parse::<ByteRate>().unwrap_err()).contains("is not a unit of a data rate:"));
    let too_large = format!("{}TB/s", u64::MAX);
    assert!(bit_rate(&too_large).contains("is not a unit of a link rate:"));
}

#[test]
fn the_parts_of_a_time_each_need_a_unit() {
    let message = |text: &str| text.parse::<Span>().unwrap_err().to_string();
    assert!(message("1m30").contains("`30` has no unit"));
    assert!(message("1m0").contains("`0` has no unit"));
    assert!(message("1:30").contains("`:` is not a unit of a time"));
    assert!(message("1m30MB").contains("`MB` is not a unit of a time"));
    assert!(message("1m-30s").contains("is not a"));
    assert!(message("300000000000d1s").contains("too large"));
    assert!(message("580y").contains("`y` is not a unit of a time"));
    assert!("1MB1MB".parse::<Bytes>().is_err());
}

#[test]
fn parse_errors_name_the_problem_and_give_an_example() {
    let message = |text: &str| text.parse::<ByteRate>().unwrap_err().to_string();
    assert_eq!(
        message("96"),
        "`96` has no unit: a data rate is written like `96MB/s` \
         (units: B/s, kB/s, MB/s, GB/s, TB/s, KiB/s, MiB/s, GiB/s, TiB/s)"
    );
    assert!(message("96MB").contains("`MB` is not a unit of a data rate (did you mean `96MB/s`?)"));
    assert!(message("96mbit").contains("`mbit` is not a unit of a data rate (did you mean `12MB/s`?)"));
    assert!(message("96ms").contains("`ms` is not a unit of a data rate: write it like `96MB/s`"));
    assert!(message("fast").contains("`fast` is not a data rate"));
    assert!(message("-1MB/s").contains("is not a data rate"));
    assert!(message("1.B/s").contains("is not a data rate"));
    assert!(message("1.2.3B/s").contains("is not a data rate"));
    assert!(message("1.5B/s").contains("not a whole number"));
    assert!(message("99999999TiB/s").contains("too large"));
    assert!(message("999999999999999999999999999TiB/s").contains("too large"));
    assert!(message("0.0000000000000000000000000001TiB/s").contains("not a whole number"));
}

#[test]
fn display_is_the_shortest_text_that_parses_back() {
    let text = |bytes| Bytes::new(bytes).to_string();
    assert_eq!(text(96_000_000), "96MB");
    assert_eq!(text(1 << 30), "1GiB");
    assert_eq!(text(1_500_000_000), "1500MB");
    assert_eq!(text(4097), "4097B");
    assert_eq!(text(0), "0");
    assert_eq!(Span::from_millis(300).to_string(), "300ms");
    for bytes in [1, 999, 1000, 1023, 1024, 4096, 1_000_001, (1 << 40) + 1, u64::MAX] {
        assert_eq!(text(bytes).parse(), Ok(Bytes::new(bytes)));
    }
}

#[test]
fn serde_accepts_a_string_or_a_bare_zero() {
    assert_eq!(serde_json::from_str::<Bytes>("\"1MiB\"").unwrap(), Bytes::new(1 << 20));
    assert_eq!(serde_json::from_str::<Bytes>("0").unwrap(), Bytes::ZERO);
    let error = serde_json::from_str::<Bytes>("5").unwrap_err().to_string();
    assert!(error.contains("`5` has no unit"), "{error}");
    let error = serde_json::from_str::<Bytes>("true").unwrap_err().to_string();
    assert!(error.contains("expected a size with its unit"), "{error}");
    assert_eq!(serde_json::to_string(&Bytes::new(96_000_000)).unwrap(), "\"96MB\"");
}

#[test]
fn a_rate_times_a_span_is_a_size() {
    let rate = ByteRate::new(96_000_000);
    assert_eq!(rate.over(Span::from_secs(1)), Bytes::new(96_000_000));
    assert_eq!(rate.over(Span::from_millis(1)), Bytes::new(96_000));
    assert_eq!(ByteRate::new(u64::MAX).over(Span::from_secs(u64::MAX)), Bytes::new(u64::MAX));
}

/// Property-based tests of the quantities' text forms.
mod properties {
    use super::*;
    use proptest::prelude::*;

    /// Generates numbers of every magnitude; each number of bits is about equally likely.
    fn magnitude() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
    }

    /// Generates texts that are valid or almost valid quantities.
    fn almost_a_quantity() -> impl Strategy<Value = String> {
        let unit = prop_oneof![
            "[kKMmGgTt]?i?[bB]?(/s|ps|/sec)?",
            "[kmgtKMGT]?i?bits?(/s)?",
            "[num]?s(ec)?|m|M|min|h|d",
            "\\PC{0,3}"
        ];
        let part = ("[ \t]{0,2}-?[0-9]{0,24}\\.?[0-9]{0,24}[ \t]{0,2}", unit)
            .prop_map(|(number, unit)| number + &unit);
        prop::collection::vec(part, 1..4).prop_map(|parts| parts.concat())
    }

    /// Checks that parsing does not panic and that a parsed value is printed as text with the same value.
    fn check_parse_and_display<
        Q: Quantity + FromStr<Err = ParseError> + fmt::Display + fmt::Debug + PartialEq + Copy,
    >(
        text: &str,
    ) -> Result<(), TestCaseError> {
        match text.parse::<Q>() {
            Ok(quantity) => prop_assert_eq!(quantity.to_string().parse::<Q>(), Ok(quantity), "{}", text),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn displayed_quantities_parse_back(number in magnitude()) {
            prop_assert_eq!(Bytes::new(number).to_string().parse(), Ok(Bytes::new(number)));
            prop_assert_eq!(ByteRate::new(number).to_string().parse(), Ok(ByteRate::new(number)));
            prop_assert_eq!(BitRate::new(number).to_string().parse(), Ok(BitRate::new(number)));
            prop_assert_eq!(Span::from_nanos(number).to_string().parse(), Ok(Span::from_nanos(number)));
        }

        #[test]
        fn parsing_never_panics(text in prop_oneof![any::<String>(), almost_a_quantity()]) {
            check_parse_and_display::<Bytes>(&text)?;
            check_parse_and_display::<ByteRate>(&text)?;
            check_parse_and_display::<BitRate>(&text)?;
            check_parse_and_display::<Span>(&text)?;
        }

        #[test]
        fn leading_and_trailing_zeros_do_not_change_the_value(
            number in magnitude(), unit in 0..Bytes::UNITS.len(), before in 0..30usize, after in 1..30usize,
        ) {
            let Unit { name, size, .. } = Bytes::UNITS[unit];
            let text = format!("{}{number}.{}{name}", "0".repeat(before), "0".repeat(after));
            match number.checked_mul(size) {
                Some(bytes) => prop_assert_eq!(text.parse(), Ok(Bytes::new(bytes)), "{}", text),
                None => prop_assert!(text.parse::<Bytes>().unwrap_err().to_string().contains("too large")),
            }
        }
    }
}
