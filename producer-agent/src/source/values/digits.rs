//! A text as runs of digits and runs of other characters.
//!
//! Owns where a run ends. Its callers decide what a run means.

/// The runs of a text in order; `true` for a run of ASCII digits.
pub(in crate::source) fn runs(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let is_digits = rest.chars().next()?.is_ascii_digit();
        let length = rest.find(|c: char| c.is_ascii_digit() != is_digits).unwrap_or(rest.len());
        let (run, after) = rest.split_at(length);
        rest = after;
        Some((is_digits, run))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_text() {
        let found: Vec<_> = runs("ž7-042.csv1").collect();
        assert_eq!(
            found,
            [(false, "ž"), (true, "7"), (false, "-"), (true, "042"), (false, ".csv"), (true, "1")]
        );
        assert_eq!(runs("").count(), 0);
    }
}
