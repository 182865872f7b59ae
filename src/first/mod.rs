//! A site's first files, for somebody who has nothing but a certificate, and perhaps a file of a register.
//!
//! Owns the forms in which a certificate is given, and its lines in every agent's configuration.

pub mod consumer;
mod p12;
pub mod producer;

use std::path::{Path, PathBuf};

use platform::identity::IdentityFiles;

/// A certificate, and its files.
#[derive(Debug, clap::Args)]
struct OwnFiles {
    /// The certificate's file: PEM, or a `.p12` or `.pfx` with its key, which is unpacked beside it.
    #[arg(long)]
    identity: PathBuf,
    /// A file with the password of the `.p12`.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// The key's file; without it, `<stem>-key.pem` beside the certificate.
    #[arg(long)]
    key: Option<PathBuf>,
    /// The authorities' file; without it, `ca.pem` beside the certificate.
    #[arg(long)]
    ca: Option<PathBuf>,
}

impl OwnFiles {
    /// The three files; a packed certificate is unpacked first.
    fn files(&self) -> anyhow::Result<IdentityFiles> {
        let mut files = match p12::is_p12(&self.identity) {
            true => IdentityFiles::beside(&p12::unpack(&self.identity, self.password_file.as_deref())?),
            false => IdentityFiles::beside(&self.identity),
        };
        files.key = self.key.clone().unwrap_or(files.key);
        files.authorities = self.ca.clone().unwrap_or(files.authorities);
        Ok(files)
    }
}

/// The `[identity]` table of a configuration. Agents may be started anywhere: paths are absolute.
fn table(files: &IdentityFiles) -> anyhow::Result<String> {
    let absolute =
        |path: &Path| -> anyhow::Result<String> { Ok(std::path::absolute(path)?.display().to_string()) };
    Ok(format!(
        "[identity]\ncertificate = {:?}\nkey = {:?}\nauthorities = {:?}\n",
        absolute(&files.certificate)?,
        absolute(&files.key)?,
        absolute(&files.authorities)?
    ))
}
