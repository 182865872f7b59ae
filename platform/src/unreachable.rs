//! The error for a peer that cannot be reached, with all causes.

/// A peer that could not be reached, or whose connection broke.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct Unreachable {
    pub url: String,
    /// Why, with its causes.
    pub problem: String,
}

impl From<&reqwest::Error> for Unreachable {
    fn from(error: &reqwest::Error) -> Self {
        let url = error.url().map_or_else(|| "the router".to_owned(), ToString::to_string);
        Self { url, problem: causes(error) }
    }
}

/// An error's text, with those of its causes.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
