//! Numbers, dates and sizes as people read them.

/// Three decimals, which is what a bf16 save can say, with a minus sign as wide as the digits.
pub(super) fn signed(value: f64) -> String {
    let text = format!("{value:.3}");
    if text == "-0.000" { "0.000".to_owned() } else { text.replace('-', "−") }
}

/// An integer in groups of three digits.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Unix seconds as `2026-02-28 13:05 UTC`; an en dash outside the years 1970 to 9999.
pub(super) fn utc(unix: f64) -> String {
    const LAST: f64 = 253_402_300_799.0;
    if !(0.0..=LAST).contains(&unix) {
        return "–".to_owned();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let seconds = unix as u64;
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Days to a civil date over eras of 400 years that begin in March, so that the leap day is
    // the last of its year (H. Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

/// A number that may be missing.
pub(super) fn maybe(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.filter(|value| value.is_finite()).map_or("–".to_owned(), show)
}

/// Three significant digits, whatever the size.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size > 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.2e}").replace('-', "−");
    }
    let digits = if size < 1.0 {
        4
    } else if size < 100.0 {
        2
    } else {
        0
    };
    format!("{value:.digits$}").replace('-', "−")
}

/// Bytes in the unit that people use.
pub(super) fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).display().iec().to_string()
}

/// Seconds as `420 ms`, `35 s`, `10 min`, `2.5 h`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "–".to_owned(),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_dates() {
        for (unix, expected) in [
            (0.0, "1970-01-01 00:00 UTC"),
            (951_782_400.0, "2000-02-29 00:00 UTC"),
            (1_772_283_959.9, "2026-02-28 13:05 UTC"),
            (4_107_542_399.0, "2100-02-28 23:59 UTC"),
            (4_107_542_400.0, "2100-03-01 00:00 UTC"),
            (-1.0, "–"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(utc(unix), expected);
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(signed(-0.0001), "0.000");
        assert_eq!(signed(-0.25), "−0.250");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn sizes_of_any_kind_are_short() {
        let shown = [0.0, 0.12345, 1.5, 123.4, -2e-7, 3e9].map(short);
        assert_eq!(shown, ["0.0000", "0.1235", "1.50", "123", "−2.00e−7", "3.00e9"]);
        assert_eq!(
            [0.42, 35.0, 600.0, 9000.0, -1.0].map(span),
            ["420 ms", "35 s", "10 min", "2.5 h", "–"]
        );
        assert_eq!(maybe(Some(f64::NAN), short), "–");
    }
}
