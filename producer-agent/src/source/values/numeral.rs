//! Reads numbers digit by digit, as exact values of a type.
//!
//! Owns the reading of numerals, and rounding where it was asked for. It never converts through a float.

use serde::Deserialize;

/// How numbers are written in delimited text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberStyle {
    /// Before the fraction.
    pub decimal: char,
    /// Between groups of three digits.
    pub group: Option<char>,
}

impl NumberStyle {
    /// As JSON and most programs write them.
    pub const PLAIN: Self = Self { decimal: '.', group: None };

    fn is_group(self, c: char) -> bool {
        match self.group {
            Some(group) => c == group,
            // With a decimal comma, a blank may separate thousands: plain, no-break or narrow.
            None => self.decimal == ',' && matches!(c, ' ' | '\u{a0}' | '\u{202f}'),
        }
    }
}

/// What becomes of digits that a type cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// The cell is refused.
    #[default]
    Refuse,
    /// To the nearest; a half to the even digit.
    HalfEven,
    /// To the nearest; a half away from zero.
    HalfUp,
    /// Towards the smaller number: a time is never later than it was.
    Down,
}

impl Rounding {
    /// A number divided by a power of ten; `None` when there is a remainder and rounding is refused.
    pub(in crate::source) fn divide(self, number: i128, by: i128) -> Option<i128> {
        let floor = number.div_euclid(by);
        let rest = number.rem_euclid(by);
        if rest == 0 {
            return Some(floor);
        }
        let is_up = match self {
            Self::Refuse => return None,
            Self::Down => false,
            Self::HalfEven => rest * 2 > by || (rest * 2 == by && floor % 2 != 0),
            Self::HalfUp => rest * 2 > by || (rest * 2 == by && number > 0),
        };
        Some(floor + i128::from(is_up))
    }
}

/// A number as it was written: its digits times a power of ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) struct Numeral {
    is_negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    exponent: i64,
}

/// No double has more digits.
const MOST_FLOAT_DIGITS: usize = 800;
/// Digits that a 128-bit number surely holds.
const MOST_DIGITS: usize = 38;

impl Numeral {
    /// Reads a text; an exponent only `with_exponent`.
    pub(in crate::source) fn parse(text: &str, style: NumberStyle, with_exponent: bool) -> Option<Self> {
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) if with_exponent => (mantissa, read_exponent(exponent)?),
            Some(_) => return None,
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once(style.decimal).unwrap_or((mantissa, ""));
        let whole = without_groups(whole, style)?;
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_plain(&whole) || !is_plain(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let all = format!("{whole}{fraction}");
        let fraction_digits = i64::try_from(fraction.len()).ok()?;
        let trimmed = all.trim_end_matches('0');
        let zeros = i64::try_from(all.len() - trimmed.len()).ok()?;
        let digits = trimmed.trim_start_matches('0').to_owned();
        let exponent = if digits.is_empty() { 0 } else { exponent - fraction_digits + zeros };
        Some(Self { is_negative, digits, exponent })
    }

    /// The number times ten to the power of `scale`, exactly or rounded as asked.
    pub(in crate::source) fn scaled(&self, scale: u32, rounding: Rounding) -> Result<i128, Misfit> {
        if self.digits.is_empty() {
            return Ok(0);
        }
        let shift = self.exponent + i64::from(scale);
        let kept = i64::try_from(self.digits.len()).unwrap_or(i64::MAX).saturating_add(shift);
        if kept > i64::try_from(MOST_DIGITS).unwrap_or(0) {
            return Err(Misfit::TooLarge);
        }
        let sign = |number: i128| if self.is_negative { -number } else { number };
        if shift >= 0 {
            let zeros = "0".repeat(usize::try_from(shift).unwrap_or(0));
            return format!("{}{zeros}", self.digits).parse().map(sign).map_err(|_| Misfit::TooLarge);
        }
        if rounding == Rounding::Refuse {
            return Err(Misfit::TooFine);
        }
        // Rounding needs two digits: the first that is cut, and whether anything but zeros follows it.
        let cut = usize::try_from(kept).unwrap_or(0).min(self.digits.len());
        let (head, tail) = self.digits.split_at(cut);
        let decides = if kept < 0 { '0' } else { tail.chars().next().unwrap_or('0') };
        let follows = if kept < 0 || tail.len() > 1 { '1' } else { '0' };
        let text = format!("0{head}{decides}{follows}");
        let number: i128 = text.parse().map_err(|_| Misfit::TooLarge)?;
        rounding.divide(sign(number), 100).ok_or(Misfit::TooFine)
    }

    /// Whether a float that was read from this text holds every written digit: with as many digits, it prints as the
    /// same number.
    pub(in crate::source) fn is_held_by(&self, float: impl std::fmt::LowerExp) -> bool {
        if self.digits.is_empty() {
            return true;
        }
        if self.digits.len() > MOST_FLOAT_DIGITS {
            return false;
        }
        let written = format!("{float:.*e}", self.digits.len() - 1);
        let Some((mantissa, exponent)) = written.split_once('e') else { return false };
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let leading = i64::try_from(self.digits.len()).unwrap_or(0) + self.exponent - 1;
        digits == self.digits && exponent.parse() == Ok(leading)
    }

    /// In the form that a float's parser reads.
    pub(in crate::source) fn plain(&self) -> String {
        let sign = if self.is_negative { "-" } else { "" };
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        format!("{sign}{digits}e{}", self.exponent)
    }

    pub(in crate::source) const fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }
}

/// Digits of a number, and zeros behind it, that are read quickly: a 128-bit number holds both.
const QUICK_DIGITS: usize = 18;

/// The number times ten to the power of `scale`, where it has few digits, none of them beyond the scale, and neither groups
/// nor an exponent; `None` is said of all others, and of what is no number. It allocates nothing.
pub(in crate::source) fn quick(text: &str, style: NumberStyle, scale: u32) -> Option<i128> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once(style.decimal).unwrap_or((unsigned, ""));
    let fraction = fraction.trim_end_matches('0');
    let zeros = usize::try_from(scale).ok()?.checked_sub(fraction.len())?;
    if whole.is_empty() || whole.len() + fraction.len() > QUICK_DIGITS || zeros > QUICK_DIGITS {
        return None;
    }
    let mut digits = whole.bytes().chain(fraction.bytes());
    let number = digits.try_fold(0_i128, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i128::from(byte - b'0'))
    })?;
    let scaled = number * 10_i128.pow(u32::try_from(zeros).ok()?);
    Some(if text.starts_with('-') { -scaled } else { scaled })
}

/// Why a number is no value of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Misfit {
    /// It has digits below the last one that the type holds.
    TooFine,
    /// It is beyond the largest.
    TooLarge,
}

fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A longer exponent is beyond every type, too.
    let bounded = if digits.len() > 9 { "999999999" } else { digits };
    let exponent: i64 = bounded.parse().ok().filter(|_| is_plain)?;
    Some(if text.starts_with('-') { -exponent } else { exponent })
}

/// The digits of the whole part; `None` where a group does not have three.
fn without_groups(whole: &str, style: NumberStyle) -> Option<String> {
    if !whole.contains(|c| style.is_group(c)) {
        return Some(whole.to_owned());
    }
    let mut groups = whole.split(|c| style.is_group(c));
    let first = groups.next().filter(|first| matches!(first.len(), 1..=3) && !first.starts_with('0'))?;
    groups.try_fold(first.to_owned(), |digits, group| (group.len() == 3).then(|| digits + group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_quickly_is_the_same_number(text in "-?[0-9]{0,20}[.,]?[0-9e ]{0,5}", scale in 0..22_u32) {
            for style in [NumberStyle::PLAIN, COMMA] {
                if let Some(number) = quick(&text, style, scale) {
                    prop_assert_eq!(scaled(&text, style, scale, Rounding::Refuse), Some(Ok(number)));
                }
            }
        }
    }

    #[test]
    fn ordinary_numbers_are_read_quickly() {
        for (text, scale, number) in [("0", 0, 0), ("-17", 0, -17), ("1234.50", 2, 123_450), ("7", 3, 7_000)]
        {
            assert_eq!(quick(text, NumberStyle::PLAIN, scale), Some(number), "{text}");
        }
    }

    const COMMA: NumberStyle = NumberStyle { decimal: ',', group: None };

    fn scaled(
        text: &str,
        style: NumberStyle,
        scale: u32,
        rounding: Rounding,
    ) -> Option<Result<i128, Misfit>> {
        Numeral::parse(text, style, true).map(|numeral| numeral.scaled(scale, rounding))
    }

    #[test]
    fn digits_are_kept_or_refused() {
        let exact = |text| scaled(text, NumberStyle::PLAIN, 2, Rounding::Refuse);
        assert_eq!(exact("70368744177664.37"), Some(Ok(7_036_874_417_766_437)));
        assert_eq!(exact("-0.10"), Some(Ok(-10)));
        assert_eq!(exact("1.500"), Some(Ok(150)));
        assert_eq!(exact("12e-1"), Some(Ok(120)));
        assert_eq!(exact("0e999999999999"), Some(Ok(0)));
        assert_eq!(exact("1.005"), Some(Err(Misfit::TooFine)));
        assert_eq!(exact("1e-400"), Some(Err(Misfit::TooFine)));
        assert_eq!(exact("1e400"), Some(Err(Misfit::TooLarge)));
        for text in
            ["", "-", ".", "+", "-.", "1 234", "1,2", "0x1", "1e", "1e+", "１", "--1", "1_000", "NaN", "inf"]
        {
            assert_eq!(exact(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_comma_and_groups_where_they_were_told() {
        let read = |text| scaled(text, COMMA, 2, Rounding::Refuse);
        assert_eq!(read("1 234,56"), Some(Ok(123_456)));
        assert_eq!(read("1\u{a0}234\u{202f}567,5"), Some(Ok(123_456_750)));
        for text in ["1.234,56", "0 123", "12 34,56", "1234 567", " 234", "1 234 ", "1,2,3"] {
            assert_eq!(read(text), None, "{text:?}");
        }
        let dotted = NumberStyle { decimal: ',', group: Some('.') };
        assert_eq!(scaled("1.234,56", dotted, 2, Rounding::Refuse), Some(Ok(123_456)));
    }

    #[test]
    fn rounding_is_as_asked() {
        let round = |text, how| scaled(text, NumberStyle::PLAIN, 0, how).unwrap().unwrap();
        for (text, even, up, down) in [
            ("0.5", 0, 1, 0),
            ("1.5", 2, 2, 1),
            ("-0.5", 0, -1, -1),
            ("-1.51", -2, -2, -2),
            ("0.05", 0, 0, 0),
            ("2.50001", 3, 3, 2),
        ] {
            let found = [Rounding::HalfEven, Rounding::HalfUp, Rounding::Down].map(|how| round(text, how));
            assert_eq!(found, [even, up, down], "{text}");
        }
    }

    #[test]
    fn a_float_holds_what_is_written_or_not() {
        let held = |text: &str| {
            let numeral = Numeral::parse(text, NumberStyle::PLAIN, true).unwrap();
            numeral.is_held_by(numeral.plain().parse::<f64>().unwrap())
        };
        for text in ["0.1", "24.105186700000001", "9007199254740992", "1e300", "5e-324", "0", "-0.250"] {
            assert!(held(text), "{text}");
        }
        assert!(!held(&"1".repeat(70_000)));
        for text in ["9007199254740993", "0.12345678901234567890123", "1e-400"] {
            assert!(!held(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_number_written_out_is_itself(number in any::<i64>(), scale in 0..12_u32) {
            let digits = format!("{:0>width$}", number.unsigned_abs(), width = usize::try_from(scale).unwrap() + 1);
            let (whole, part) = digits.split_at(digits.len() - usize::try_from(scale).unwrap());
            let text = format!("{}{whole}.{part}", if number < 0 { "-" } else { "" });
            prop_assert_eq!(scaled(&text, NumberStyle::PLAIN, scale, Rounding::Refuse), Some(Ok(i128::from(number))));
        }
    }
}
