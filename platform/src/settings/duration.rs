//! Durations as people write them: `30s`, `15m`, `1h`, `7d`, `2w`; a bare number is seconds.

use std::time::Duration;

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 30s, 15m, 1h, 7d or 2w, found {0:?}")]
pub struct DurationError(String);

const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// Reads one.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refused = || DurationError(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = if unit.is_empty() { "s" } else { unit };
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refused)?;
    let number: u64 = number.parse().map_err(|_| refused())?;
    number.checked_mul(*seconds).map(Duration::from_secs).ok_or_else(refused)
}

/// In the largest unit that leaves nothing over, weeks excepted: `7d` is how people say it.
pub(super) fn format_duration(duration: Duration) -> String {
    let whole = duration.as_secs();
    let (name, seconds) =
        UNITS[1..].iter().find(|(_, seconds)| whole.is_multiple_of(*seconds)).expect("every number is a multiple of one second");
    format!("{}{name}", whole / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_or_are_refused() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("1h", 3600), ("7d", 604_800), ("2w", 1_209_600), ("90", 90), ("0", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "1 h", "-1h", "1.5h", "1y", "7D", "1h30m", "18446744073709551615h", "١h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_shown_shortly() {
        for text in ["30s", "15m", "1h", "7d", "90s", "36h"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }
}
