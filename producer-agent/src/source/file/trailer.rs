//! A file's last line that counts its rows.
//!
//! Owns the pattern: a text with `{rows}` in the position of the count.

#[derive(Debug, Clone)]
pub(super) struct Trailer(String);

impl Trailer {
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    pub(super) fn pattern(&self) -> &str {
        &self.0
    }

    /// The count of rows, where the line is a trailer.
    pub(super) fn count(&self, line: &str) -> Option<u64> {
        let (before, behind) = self.0.split_once("{rows}")?;
        let digits = line.trim().strip_prefix(before.trim_start())?.strip_suffix(behind.trim_end())?;
        digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_stands_where_it_was_told() {
        let trailer = Trailer::new("({rows} rows affected)");
        assert_eq!(trailer.count("(12 rows affected)"), Some(12));
        for line in ["(x rows affected)", "12", "(+1 rows affected)", "( rows affected)"] {
            assert_eq!(trailer.count(line), None, "{line}");
        }
        assert_eq!(Trailer::new("TRAILER|{rows}").count(" TRAILER|0 "), Some(0));
    }
}
