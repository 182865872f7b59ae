//! Decides who may use the local endpoint.
//!
//! Owns the refusal of pages in a browser (another host's name, an origin) and the token. It reads no body.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, StatusCode, header};
use platform::closed;

use super::EndpointConfig;

/// Why the token cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    /// Other users can read it.
    #[error(transparent)]
    Open(#[from] closed::Open),
    #[error("{0} is empty; remove the file, and the agent makes a new token at its next start")]
    Empty(PathBuf),
    #[error(transparent)]
    Random(#[from] platform::random::NoRandomness),
}

/// What a request must show.
#[derive(Debug)]
pub(super) struct Admission {
    /// Names that requests may be addressed to; `None` for a socket, where no name is required.
    hosts: Option<Vec<String>>,
    token: Option<String>,
}

/// Names of this machine, under which no other host can serve a page.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Admission {
    pub(super) fn new(config: &EndpointConfig) -> Result<Self, TokenError> {
        let own = match config.listen {
            std::net::SocketAddr::V4(address) => address.ip().to_string(),
            std::net::SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        let names = LOOPBACK.iter().map(|name| (*name).to_owned()).chain([own]);
        let names = names.chain(config.hosts.iter().map(|name| name.to_lowercase()));
        let hosts = config.socket.is_none().then(|| names.collect());
        Ok(Self { hosts, token: config.token_file.as_deref().map(token).transpose()? })
    }

    /// Refuses a request by its headers.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if headers.contains_key(header::ORIGIN) {
            return Err((
                StatusCode::FORBIDDEN,
                "the request has an Origin header; pages in a browser may not change the register",
            ));
        }
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(hosts) = &self.hosts {
            let host = text(header::HOST).unwrap_or_default().to_lowercase();
            let name = match host.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
                _ => host.as_str(),
            };
            if !hosts.iter().any(|known| known == name) {
                let detail = "the request is addressed to another host; say localhost, or name it under hosts in [http]";
                return Err((StatusCode::MISDIRECTED_REQUEST, detail));
            }
        }
        let Some(token) = &self.token else { return Ok(()) };
        let given =
            text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        match is_same(given.trim().as_bytes(), token.as_bytes()) {
            true => Ok(()),
            false => Err((
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong; send the word of the token file: Authorization: Bearer WORD",
            )),
        }
    }
}

/// Compares in a time that does not show where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Reads the token in a file; makes one if there is no file.
fn token(path: &Path) -> Result<String, TokenError> {
    let io = |error| TokenError::Io { path: path.to_owned(), error };
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let word = hex::encode(platform::random::bytes::<32>()?);
            writeln!(file, "{word}").map_err(io)?;
            tracing::info!(path = %path.display(), "a token for the local endpoint was made");
            Ok(word)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            closed::secret(path)?;
            let word = std::fs::read_to_string(path).map_err(io)?.trim().to_owned();
            if word.is_empty() { Err(TokenError::Empty(path.to_owned())) } else { Ok(word) }
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(more: &str) -> Admission {
        let config: EndpointConfig = serde_json::from_str(&format!("{{{more}}}")).unwrap();
        Admission::new(&config).unwrap()
    }

    fn answer(admission: &Admission, headers: &[(&'static str, &str)]) -> u16 {
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_str(value).unwrap())
        });
        admission.admit(&headers.collect()).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_programs_on_this_machine_are_answered() {
        let open = admission("\"hosts\":[\"Register.Internal\"]");
        for host in ["localhost", "127.0.0.1:9445", "[::1]:9445", "LOCALHOST:1", "register.internal"] {
            assert_eq!(answer(&open, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:9445", "localhost.evil.example", "", "127.0.0.2"] {
            assert_eq!(answer(&open, &[("host", host)]), 421, "{host}");
        }
        assert_eq!(answer(&open, &[]), 421);
        assert_eq!(answer(&open, &[("host", "localhost"), ("origin", "http://localhost")]), 403);
        assert_eq!(answer(&open, &[("host", "localhost"), ("origin", "null")]), 403);
    }

    #[test]
    fn a_token_is_made_closed_and_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let guarded = admission(&format!("\"token_file\":{path:?}"));
        let word = std::fs::read_to_string(&path).unwrap();
        let given = format!("Bearer {}", word.trim());
        assert_eq!(answer(&guarded, &[("host", "localhost")]), 401);
        assert_eq!(answer(&guarded, &[("host", "localhost"), ("authorization", "Bearer x")]), 401);
        assert_eq!(answer(&guarded, &[("host", "localhost"), ("authorization", &given)]), 200);
        assert!(token(&path).is_ok_and(|again| again == word.trim()));
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(token(&path).unwrap_err().to_string().contains("chmod 600"));
    }
}
