//! Configuration files: TOML is read into typed structs, unknown keys are refused, errors give file and line.
//!
//! Owns reading and the shape of errors; each process owns its own keys.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Unreadable {
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The text does not fit the types of the keys.
    #[error("{path}, line {line}: {problem}")]
    Malformed {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        problem: String,
    },
    /// Well-formed, but not a possible value.
    #[error("{path}: {key}: {problem}")]
    Invalid {
        path: PathBuf,
        key: String,
        /// What is wrong and what to write.
        problem: String,
    },
}

/// Reads a file of TOML.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &read(path)?)
}

/// Reads a file as text.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })
}

/// Parses text of TOML; `path` only names it in errors.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
        ConfigError::Malformed { path: path.to_owned(), line, problem: error.message().to_owned() }
    })
}

/// Makes the paths of a configuration file relative to its folder.
pub fn relative_to<'p>(config: &Path, paths: impl IntoIterator<Item = &'p mut PathBuf>) {
    let base = config.parent().unwrap_or_else(|| Path::new("."));
    for path in paths {
        *path = base.join(&*path);
    }
}

/// Parses a file of JSON (agreements, schemas).
pub fn load_json<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    serde_json::from_str(&read(path)?).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code, reason = "only its parsing is looked at")]
        port: u16,
    }

    #[test]
    fn errors_name_file_and_line() {
        let path = Path::new("router.toml");
        let message = |text: &str| parse::<Sample>(path, text).map(drop).map_err(|e| e.to_string());
        assert_eq!(message("port = 1"), Ok(()));
        let unknown = message("# comment\nport = 1\nprot = 2\n").unwrap_err();
        assert!(unknown.starts_with("router.toml, line 3: unknown field `prot`"), "{unknown}");
        let wrong = message("\nport = \"x\"").unwrap_err();
        assert!(wrong.starts_with("router.toml, line 2:"), "{wrong}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Sample>(Path::new("/nowhere/router.toml")).map(drop).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/router.toml: cannot be read"));
    }
}
