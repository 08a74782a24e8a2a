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

#[test]
fn parse_errors_name_the_problem_and_give_an_example() {
    let message = |text: &str| text.parse::<ByteRate>().unwrap_err().to_string();
    assert_eq!(
        message("96"),
        "`96` has no unit: a data rate is written like `96MB/s` \
         (units: B/s, kB/s, MB/s, GB/s, TB/s, KiB/s, MiB/s, GiB/s, TiB/s)"
    );
    assert!(message("96mb/s").contains("`mb/s` is not a unit of a data rate (did you mean `MB/s`?)"));
    assert!(message("96MB").contains("`MB` is not a unit of a data rate"));
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
        let unit = prop_oneof!["[kKMGT]?i?[bB](/s)?", "[kmgt]?bit", "[num]?s|min|h", "\\PC{0,3}"];
        ("[ \t]{0,2}-?[0-9]{0,24}\\.?[0-9]{0,24}[ \t]{0,2}", unit).prop_map(|(number, unit)| number + &unit)
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
            let Unit { name, size } = Bytes::UNITS[unit];
            let text = format!("{}{number}.{}{name}", "0".repeat(before), "0".repeat(after));
            match number.checked_mul(size) {
                Some(bytes) => prop_assert_eq!(text.parse(), Ok(Bytes::new(bytes)), "{}", text),
                None => prop_assert!(text.parse::<Bytes>().unwrap_err().to_string().contains("too large")),
            }
        }
    }
}
